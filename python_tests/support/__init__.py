"""What several test files share: ragged batches, slow second versions, the tolerance rule."""
