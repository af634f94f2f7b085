//! Tells cargo that the program holds the page's files, so that a new one is not missed.

fn main() {
    println!("cargo:rerun-if-changed=src/web/files");
}
