//! Encryption and decryption of file bytes: pure, without I/O.
