//! Client of the key service for the metadata service: mint and re-wrap.
