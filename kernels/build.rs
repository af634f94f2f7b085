//! Compiles the kernels: with nvcc for cards (feature `cuda`), with the C++ compiler for the emulator.

#[cfg(feature = "cuda")]
#[path = "build/cards.rs"]
mod cards;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=common.cuh");
    println!("cargo:rerun-if-changed=host");
    for source in sources() {
        println!("cargo:rerun-if-changed={source}");
    }
    #[cfg(feature = "emulator")]
    emulator();
    #[cfg(feature = "cuda")]
    cards::build(&sources());
}

/// The kernel files of this folder, headers included.
fn sources() -> Vec<String> {
    let entries = std::fs::read_dir(".").expect("the crate's folder can be read");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> =
        names.filter(|name| name.ends_with(".cu") || name.ends_with(".cuh")).collect();
    found.sort_unstable();
    found
}

#[cfg(feature = "emulator")]
fn emulator() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag_if_supported("-Wno-unknown-pragmas")
        .include(".")
        .file("host/emulator.cpp")
        .file("host/all.cpp")
        // Kernels register themselves; nothing refers to them by name.
        .link_lib_modifier("+whole-archive")
        .cargo_metadata(true)
        .compile("serin_emulator");
}
