//! Nothing: this package is there to have its dependency built, whose product is a shared library.
