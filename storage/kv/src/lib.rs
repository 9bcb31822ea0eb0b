//! An ordered, transactional key-value store.
