//! Link arguments of the preload library: the name by which the loader knows it, and that it is never
//! unloaded, because every block of the process and each thread's exit depend on it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libhakozuna_hz3_hardened.so");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // An undefined name is an error now, not at the start of every program.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
}
