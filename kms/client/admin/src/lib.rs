//! Client of the key service for key administrators.
