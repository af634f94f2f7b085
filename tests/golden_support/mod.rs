//! transformers' results for tiny random checkpoints, a folder each: prompts, logits at some positions, and greedy
//! tokens. Written by `scripts/make_family_goldens.py` and `scripts/make_compat_goldens.py`.

use candle_core::Device;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[allow(dead_code, reason = "each test uses a part of it")]
pub struct Golden {
    pub prompts: Vec<Vec<u32>>,
    /// Positions whose logits are stored, per prompt.
    pub positions: Vec<Vec<usize>>,
    pub greedy: Vec<Vec<u32>>,
    /// Per prompt and stored position.
    #[serde(skip)]
    pub logits: Vec<Vec<Vec<f32>>>,
}

/// The folders of checkpoints in `root`, of which there are `count`, in alphabetical order.
pub fn names(root: &Path, count: usize) -> Vec<String> {
    let folders = std::fs::read_dir(root).unwrap();
    let name = |folder: std::io::Result<std::fs::DirEntry>| folder.unwrap().file_name();
    let mut names: Vec<String> =
        folders.map(|folder| name(folder).into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), count, "checkpoints in {}", root.display());
    names
}

/// The checkpoints of serin's own decoder, in the checkout `root`.
#[allow(dead_code, reason = "not every test is about them")]
pub fn families(root: &Path) -> Vec<String> {
    names(&root.join("tests/fixtures/families"), 20)
}

/// The results in a checkpoint's folder.
pub fn golden(folder: &Path) -> Golden {
    let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let mut golden: Golden = serde_json::from_str(&text).unwrap();
    let file = folder.join("golden.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let rows = |i| tensors[&format!("logits.{i}")].to_vec2::<f32>().unwrap();
    golden.logits = (0..golden.prompts.len()).map(rows).collect();
    golden
}
