//! Compiles the module itself, which is C: a shared object that the crate carries inside.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/shim.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let module = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("shim.so");
    let mut compile: Command = cc::Build::new().get_compiler().to_command();
    compile.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
    compile.arg(&module).arg(SOURCE).arg("-ldl");
    let status = compile
        .status()
        .expect("a C compiler is needed: apt-get install gcc libc6-dev");
    assert!(status.success(), "{compile:?}: {status}");
}
