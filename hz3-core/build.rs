//! Builds nothing: cargo lets only a package with a build script have the key `links`, by which it refuses a second
//! version of the crate in one program.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
