//! Compiles the kernels for cards: one fatbin per `.cu` file, with machine code for each generation of cards that
//! serin knows and PTX for those to come, and a Rust list of them all.
//!
//! A file is compiled again only when it, a header or the command has changed: several cards' code takes its time.
//! What was compiled is kept in `cuda-kernels` in the target folder, for builds with other features or profiles.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, thread};

/// Compute capabilities times ten: A100, GeForce 30, GeForce 40 and L4, H100, GeForce 50.
const ARCHS: &str = "80,86,89,90,120";
/// The first release of the toolkit that knows them all.
const OLDEST: (u32, u32) = (12, 8);
/// How images lie in the program: a fifth of their size, unpacked by the driver when they are loaded (from CUDA
/// 12.4 on, release 550). The option is as old as [`OLDEST`].
const COMPRESSION: &str = "--compress-mode=size";
const HOW: &str =
    "eval \"$(scripts/cuda_toolkit)\" sets up one that compiles, with or without a GPU";

const VARIABLES: [&str; 5] = ["CUDA_HOME", "CUDA_PATH", "PATH", "NVCC_CCBIN", "SERIN_CUDA_ARCHS"];

/// Compiles every `.cu` of `sources` (which names headers too) and writes `modules.rs` for `src/cuda`.
pub fn build(sources: &[String]) {
    for variable in VARIABLES {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Err(what) = try_build(sources) {
        eprintln!("{what}");
        std::process::exit(1);
    }
}

fn try_build(sources: &[String]) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo gives no OUT_DIR")?);
    let archs = archs(&env::var("SERIN_CUDA_ARCHS").unwrap_or_default())?;
    let nvcc = find_nvcc()?;
    let release = release_of(&nvcc)?;
    let kernels: Vec<&str> = sources.iter().filter_map(|name| name.strip_suffix(".cu")).collect();
    // The target folder: OUT_DIR is PROFILE/build/PACKAGE/out in it.
    let cache = out.ancestors().nth(4).unwrap_or(&out).join("cuda-kernels");
    let headers = digest_of_headers(sources)?;
    let command = Compilation { nvcc, release, archs, out, cache, headers };
    command.compile_all(&kernels)?;
    let modules = out_file(&command.out, "modules", "rs");
    fs::write(&modules, command.listing(&kernels))
        .map_err(|e| format!("{}: {e}", modules.display()))
}

/// The list that was asked for, in order, or all.
fn archs(asked: &str) -> Result<Vec<u32>, String> {
    let asked = if asked.trim().is_empty() { ARCHS } else { asked };
    let words = asked.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
    let mut found = Vec::new();
    for word in words {
        let number = word.strip_prefix("sm_").unwrap_or(word).parse::<u32>();
        match number {
            Ok(arch) if arch >= 80 => found.push(arch),
            _ => {
                return Err(format!(
                    "SERIN_CUDA_ARCHS: {word} is not a GPU architecture of 80 or later; an example is {ARCHS}"
                ));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn find_nvcc() -> Result<PathBuf, String> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.filter(|home| !home.is_empty()).map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let common = [PathBuf::from("/usr/local/cuda/bin")];
    let folders = homes.chain(env::split_paths(&path)).chain(common);
    let mut found = folders.map(|folder| folder.join("nvcc")).filter(|nvcc| nvcc.is_file());
    found.next().ok_or_else(|| {
        format!(
            "the feature `cuda` takes nvcc, which is not in $CUDA_HOME, $CUDA_PATH or $PATH: {HOW}"
        )
    })
}

fn release_of(nvcc: &Path) -> Result<(u32, u32), String> {
    let output = run(Command::new(nvcc).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1).and_then(|rest| {
        let (major, rest) = rest.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    let release: (u32, u32) =
        release.ok_or_else(|| format!("{} --version names no release: {text}", nvcc.display()))?;
    if release < OLDEST {
        return Err(format!(
            "{} is of CUDA {}.{}, and it takes {}.{} or newer: {HOW}",
            nvcc.display(),
            release.0,
            release.1,
            OLDEST.0,
            OLDEST.1
        ));
    }
    Ok(release)
}

fn digest_of_headers(sources: &[String]) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    for header in sources.iter().filter(|name| name.ends_with(".cuh")) {
        header.hash(&mut hasher);
        fs::read(header).map_err(|e| format!("{header}: {e}"))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

struct Compilation {
    nvcc: PathBuf,
    release: (u32, u32),
    archs: Vec<u32>,
    out: PathBuf,
    /// Code of all builds in the target folder, by what it was made of: other features and profiles take the same.
    cache: PathBuf,
    headers: u64,
}

impl Compilation {
    /// Compiles as many at a time as cargo has jobs.
    fn compile_all(&self, kernels: &[&str]) -> Result<(), String> {
        let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
        let workers = kernels.len().min(jobs);
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), String> {
            while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.compile(kernel, jobs / workers.max(1))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let ended = started.into_iter().map(|worker| worker.join().expect("no panic"));
            // All are waited for, and the first failure is told.
            ended.fold(Ok(()), Result::and)
        })
    }

    fn compile(&self, kernel: &str, threads: usize) -> Result<(), String> {
        let (source, target) = (format!("{kernel}.cu"), out_file(&self.out, kernel, "fatbin"));
        let stamp = out_file(&self.out, kernel, "stamp");
        let mut hasher = DefaultHasher::new();
        (self.arguments(), &self.nvcc, self.release, self.headers).hash(&mut hasher);
        fs::read(&source).map_err(|e| format!("{source}: {e}"))?.hash(&mut hasher);
        let digest = format!("{:016x}", hasher.finish());
        if target.is_file() && fs::read_to_string(&stamp).is_ok_and(|known| known == digest) {
            return Ok(());
        }
        let written = |path: &Path, done: io::Result<()>| {
            done.map_err(|e| format!("{}: {e}", path.display()))
        };
        let kept = self.cache.join(format!("{kernel}-{digest}.fatbin"));
        if !kept.is_file() {
            written(&self.cache, fs::create_dir_all(&self.cache))?;
            let mut command = Command::new(&self.nvcc);
            command.args(self.arguments());
            command.args(["-I", ".", "--threads", &threads.max(1).to_string()]);
            run(command.arg("-o").arg(&target).arg(&source))?;
            // Under another name until it is whole.
            let partial = kept.with_extension(format!("{}", std::process::id()));
            written(&partial, fs::copy(&target, &partial).map(drop))?;
            written(&kept, fs::rename(&partial, &kept))?;
        }
        written(&target, fs::copy(&kept, &target).map(drop))?;
        written(&stamp, fs::write(&stamp, digest))
    }

    /// Machine code for every architecture, and PTX for the first and the last: the last runs on cards to come,
    /// the first on those between that nobody listed.
    fn arguments(&self) -> Vec<String> {
        let options = ["-fatbin", "-std=c++17", "-O3", COMPRESSION];
        let mut arguments: Vec<String> = options.map(str::to_owned).into();
        for arch in &self.archs {
            let ptx = [self.archs.first(), self.archs.last()].contains(&Some(arch));
            let code = match ptx {
                true => format!("[sm_{arch},compute_{arch}]"),
                false => format!("sm_{arch}"),
            };
            arguments.extend(["-gencode".into(), format!("arch=compute_{arch},code={code}")]);
        }
        arguments
    }

    fn listing(&self, kernels: &[&str]) -> String {
        let archs: Vec<String> = self.archs.iter().map(|arch| format!("sm_{arch}")).collect();
        let mut text = format!(
            "pub(super) const TOOLKIT: (i32, i32) = ({}, {});\n\
             pub(super) const ARCHS: &str = \"{}\";\n\
             pub(super) static IMAGES: &[(&str, &[u8])] = &[\n",
            self.release.0,
            self.release.1,
            archs.join(", ")
        );
        for kernel in kernels {
            let file = out_file(&self.out, kernel, "fatbin");
            text += &format!("    ({kernel:?}, &Aligned(*include_bytes!({file:?})).0),\n");
        }
        text + "];\n"
    }
}

fn out_file(out: &Path, name: &str, extension: &str) -> PathBuf {
    out.join(format!("{name}.{extension}"))
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Err(format!("{command:?}: {}\n{}", output.status, said.concat()))
}
