//! The parts of a split GGUF file: opened together, checked to belong together, their tensors in one list.
//!
//! llama.cpp splits large models into `NAME-00001-of-00003.gguf` and so on. The first part has the metadata. Each part
//! has some of the tensors, its own number, and the number of parts. It does not know architectures or names of
//! tensors.

use super::at;
use super::header::{Fault, Header, TensorInfo};
use super::meta::Metadata;
use crate::device::files;
use crate::model::error::LoadError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most parts of one model: llama.cpp makes one for every few gigabytes.
const MOST_PARTS: u64 = 1024;

/// One mapped file.
pub(super) struct Part {
    pub path: PathBuf,
    pub map: memmap2::Mmap,
}

/// All parts of a model, in order; one if it is not split.
pub(super) struct Parts {
    pub files: Vec<Part>,
    /// The header of the first, with the metadata.
    pub header: Header,
    /// The tensors of all, with the number of their part.
    pub tensors: HashMap<String, (usize, TensorInfo)>,
}

impl Parts {
    /// Maps and checks the file, and those that it says it is split into. Fails if one cannot be read or is damaged, or
    /// if parts are missing.
    pub fn open(path: &Path) -> Result<Parts, LoadError> {
        let (first, mut header) = read(path)?;
        let tensors = std::mem::take(&mut header.tensors);
        let fault = |fault| at(path, fault);
        let (number, count) = place(&header, &first).map_err(fault)?;
        let mut parts = Parts { files: vec![first], header, tensors: HashMap::new() };
        parts.add(tensors).map_err(fault)?;
        if count > 1 {
            let names = names(path, number, count).map_err(fault)?;
            names.iter().try_for_each(|path| parts.add_file(path, count))?;
            parts.check_whole().map_err(fault)?;
        }
        Ok(parts)
    }

    fn add_file(&mut self, path: &Path, count: u64) -> Result<(), LoadError> {
        let (file, mut header) = read(path)?;
        let fault = |fault| at(path, fault);
        let expected = (self.files.len() as u64, count);
        let found = place(&header, &file).map_err(fault)?;
        if found != expected {
            let (number, of) = (found.0 + 1, found.1);
            return Err(fault(Fault::Unsupported(format!(
                "it is part {number} of {of}, where part {} of {count} should be; the parts are of different models",
                expected.0 + 1
            ))));
        }
        self.files.push(file);
        self.add(std::mem::take(&mut header.tensors)).map_err(fault)
    }

    /// Adds the tensors of the last file.
    fn add(&mut self, tensors: HashMap<String, TensorInfo>) -> Result<(), Fault> {
        let part = self.files.len() - 1;
        for (name, info) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(Fault::Damaged(format!(
                    "its tensor `{name}` is in another part as well"
                )));
            }
            self.tensors.insert(name, (part, info));
        }
        Ok(())
    }

    /// The first part says how many tensors there are in all.
    fn check_whole(&self) -> Result<(), Fault> {
        let meta = Metadata { header: &self.header, file: &self.files[0].map };
        match meta.count("split.tensors.count")? {
            Some(count) if count != self.tensors.len() as u64 => Err(Fault::Damaged(format!(
                "its parts have {} tensors, not the {count} that it names",
                self.tensors.len()
            ))),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<(Part, Header), LoadError> {
    let map = files::map_bytes(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let header = Header::parse(&map).map_err(|fault| at(path, fault))?;
    Ok((Part { path: path.to_owned(), map }, header))
}

/// Which part a file is, from 0 on, and of how many.
fn place(header: &Header, part: &Part) -> Result<(u64, u64), Fault> {
    let meta = Metadata { header, file: &part.map };
    let count = meta.count("split.count")?.unwrap_or(1);
    Ok((meta.count("split.no")?.unwrap_or(0), count))
}

/// The paths of all parts but the first, whose path this has to be.
fn names(path: &Path, number: u64, count: u64) -> Result<Vec<PathBuf>, Fault> {
    if count > MOST_PARTS {
        let what = format!("it is split into {count} parts, more than the {MOST_PARTS} supported");
        return Err(Fault::Unsupported(what));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ends = |number: u64| format!("-{:05}-of-{count:05}.gguf", number + 1);
    let Some(stem) = name.strip_suffix(&ends(number)) else {
        return Err(Fault::Unsupported(format!(
            "it is part {} of {count}, and its name should end in `{}`; give the parts the names that they had",
            number + 1,
            ends(number)
        )));
    };
    if number != 0 {
        let first = format!("{stem}{}", ends(0));
        return Err(Fault::Unsupported(format!(
            "it is part {} of {count}; name the first one, {first}",
            number + 1
        )));
    }
    Ok((1..count).map(|number| path.with_file_name(format!("{stem}{}", ends(number)))).collect())
}

/// The first of the files if they are the parts of one model, all of them.
pub fn first_part(files: &[PathBuf]) -> Option<&PathBuf> {
    let first = files.iter().min()?;
    let count = files.len() as u64;
    let others = names(first, 0, count).ok()?;
    others.iter().all(|path| files.contains(path)).then_some(first)
}
