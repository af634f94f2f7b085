//! Both ways of mapping give the same tensors, and refuse the same files.

use super::{candle, plain};
use std::path::{Path, PathBuf};

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let folders = std::fs::read_dir(root).expect("the demo models").flatten();
    let files = folders.map(|folder| folder.path().join("model.safetensors"));
    files.filter(|file| file.is_file()).collect()
}

#[test]
fn both_give_the_same_tensors() {
    let models = models();
    assert!(!models.is_empty());
    for path in models {
        let paths = [path];
        let (one, other) =
            (candle::Safetensors::open(&paths).unwrap(), plain::Safetensors::open(&paths).unwrap());
        let (mut names, mut others) = (one.tensors(), other.tensors());
        names.sort_by(|a, b| a.0.cmp(&b.0));
        others.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(!names.is_empty());
        for ((name, view), (other_name, other_view)) in names.iter().zip(&others) {
            assert_eq!(
                (name, view.dtype(), view.shape()),
                (other_name, other_view.dtype(), other_view.shape())
            );
            assert!(view.data() == other_view.data(), "{name}");
            assert!(other.get(name).is_some_and(|again| again.data() == view.data()));
        }
        assert_eq!(names.len(), others.len());
        assert!(one.get("no such tensor").is_none() && other.get("no such tensor").is_none());
    }
}

#[test]
fn both_refuse_what_is_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(&models()[0]).unwrap();
    let path = dir.path().join("model.safetensors");
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let paths = [path.clone()];
        assert!(candle::Safetensors::open(&paths).is_err(), "{length}");
        assert!(plain::Safetensors::open(&paths).is_err(), "{length}");
    }
}
