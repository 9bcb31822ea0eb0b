//! The key service: EZ keys in a PKCS#11 token, policy, audit and its faces.
