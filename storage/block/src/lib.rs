//! The block node: immutable ciphertext blocks on local disks.
