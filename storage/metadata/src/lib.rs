//! The metadata service: namespace, zones, EDEKs and placement.
