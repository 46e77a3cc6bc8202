// The only macro here: which functions are compiled for several levels of x86-64.
#pragma once

// A function marked so is compiled for the baseline, for AVX2 and for AVX-512, and the loader picks
// what the machine has. Elsewhere, and under AddressSanitizer or ThreadSanitizer, which cannot run
// that early, it is a plain function. The attribute has to stand on the function, so it cannot be
// anything but a macro.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FINESTEP_CLONES [[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]]
#else
#define FINESTEP_CLONES
#endif
