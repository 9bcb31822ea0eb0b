//! Client of the key service for readers and writers: the only one that knows a DEK.
