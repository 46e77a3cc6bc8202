"""What several test files share: ragged batches, slow second tellings, the tolerance rule."""
