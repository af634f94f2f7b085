//! Compiles the kernels: with nvcc for cards (feature `cuda`), with the C++ compiler for the emulator; with both,
//! the stand-in for the driver that tests load, which they carry in them.

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
    #[cfg(all(feature = "cuda", feature = "emulator"))]
    stand_in();
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
    let checked = cfg!(feature = "races");
    let mut engine = host_code();
    let mut kernels = host_code();
    engine.file("host/emulator.cpp");
    kernels.file("host/all.cpp");
    if checked {
        // The kernels call the checker for each read and write. Accesses stay as they are written: vectors whole, and
        // in the function that makes them.
        engine.define("SERIN_RACES", None).files(CHECKER);
        kernels.define("SERIN_RACES", None).file("host/planted.cpp");
        kernels.flag("-fsanitize=thread").flag("-g1").flag_if_supported("-fno-tree-sra");
        kernels.flag_if_supported("-fno-ipa-sra");
        kernels.flag_if_supported("--param=tsan-instrument-func-entry-exit=0");
    }
    engine.objects(kernels.compile_intermediates());
    // Kernels register themselves; nothing refers to them by name.
    engine.link_lib_modifier("+whole-archive").cargo_metadata(true).compile("serin_emulator");
}

#[cfg(feature = "emulator")]
const CHECKER: [&str; 4] =
    ["host/races.cpp", "host/order.cpp", "host/shadow.cpp", "host/requests.cpp"];

#[cfg(feature = "emulator")]
fn host_code() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag_if_supported("-Wno-unknown-pragmas")
        // Where a struct of arguments is filled in part, the rest is nought on purpose.
        .flag_if_supported("-Wno-missing-field-initializers")
        .include(".");
    build
}

/// `driver.so` in the build's folder: a test program takes it along, for machines that have no compiler.
#[cfg(all(feature = "cuda", feature = "emulator"))]
fn stand_in() {
    let out = std::env::var_os("OUT_DIR").expect("cargo names a folder to build in");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .pic(true)
        .extra_warnings(true)
        .warnings_into_errors(true);
    let mut command = build.get_compiler().to_command();
    command.args(["-shared", "-o"]).arg(std::path::Path::new(&out).join("driver.so"));
    let status = command.arg("host/driver.cpp").status();
    let done = status.expect("the C++ compiler starts");
    assert!(done.success(), "the stand-in for the driver does not compile: {done}");
}
