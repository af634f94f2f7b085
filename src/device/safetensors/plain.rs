//! Safetensors files without candle: the mapping, and each header's table.

use super::super::files::map_bytes;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorView};
use std::collections::HashMap;
use std::path::PathBuf;

/// The tensors of one or more mapped files.
pub struct Safetensors {
    files: Vec<File>,
    /// Where each tensor is.
    places: HashMap<String, usize>,
}

struct File {
    map: Mmap,
    metadata: Metadata,
    /// Where the data begin.
    start: usize,
}

impl Safetensors {
    /// Maps the files and reads their headers. Fails if one cannot be read or its header is not valid; the error is
    /// text for the operator.
    pub fn open(paths: &[PathBuf]) -> Result<Safetensors, String> {
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for path in paths {
            let map = map_bytes(path).map_err(|error| error.to_string())?;
            let read = SafeTensors::read_metadata(&map);
            let (header, metadata) = read.map_err(|error| error.to_string())?;
            places.extend(metadata.tensors().into_keys().map(|name| (name, files.len())));
            // The header's length comes first, in 8 bytes.
            files.push(File { map, metadata, start: header + 8 });
        }
        Ok(Safetensors { files, places })
    }

    /// The tensor of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let File { map, metadata, start } = &self.files[*self.places.get(name)?];
        let info = metadata.info(name)?;
        let (from, to) = info.data_offsets;
        let bytes = map.get(start + from..start + to)?;
        TensorView::new(info.dtype, info.shape.clone(), bytes).ok()
    }

    /// All tensors.
    pub fn tensors(&self) -> Vec<(String, TensorView<'_>)> {
        let names = self.places.keys();
        names.filter_map(|name| Some((name.clone(), self.get(name)?))).collect()
    }
}
