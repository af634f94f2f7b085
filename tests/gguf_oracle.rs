//! GGUF files of every architecture and weight type compared with llama.cpp, by its goldens (`gguf_support`).
//!
//! llama.cpp's replies are forced on the decoder, so that every position is compared whatever was chosen
//! before it. This is done twice, since prompts and single tokens use different kernels. Then the engine
//! generates by itself, and is compared up to the first token that differs. `--nocapture` prints the figures
//! of each file; `scripts/oracle_table` makes a table of them for every instruction set.

mod gguf_support;

use gguf_support::on_cpu::{check, forced, load};
use gguf_support::*;
use serin::device::Kind;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};

/// Checks a family's file in every form.
async fn check_all(family: &str, golden: &Golden) {
    let (library, dir) = (Library::read(), tempfile::tempdir().unwrap());
    for (form, expected) in &golden.forms {
        let bytes = golden.compose(expected, &library, &Damage::None);
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, expected.sha256, "{family} {form} is not the file that llama.cpp ran");
        let path = dir.path().join(format!("{family}-{form}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        check(&path, &format!("{family} {form}"), &expected.said).await;
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn every_family_and_form_says_what_llama_cpp_says() {
    for family in FAMILIES {
        let golden = golden(family);
        assert_eq!(golden.forms.len(), 8);
        check_all(family, &golden).await;
    }
}

/// A file in each kind that the forms above do not have, and one whose matrices differ in kind where they share an
/// input: queries, keys and values, gate and up.
#[tokio::test]
async fn every_kind_says_what_llama_cpp_says_alone_and_mixed() {
    let golden = golden("kinds");
    let pure = |kind: Kind| {
        let form = golden.forms.values().find(|form| form.kinds().all(|other| other == kind));
        assert!(form.is_some(), "no file of {kind}");
    };
    MORE.into_iter().for_each(pure);
    let mixed: Vec<Kind> = golden.forms["mixed"].kinds().collect();
    let different = |kinds: &[Kind]| kinds.iter().collect::<HashSet<_>>().len() == kinds.len();
    // The embedding, then of each layer queries, keys, values, output, gate, up and down.
    let layers = &mixed[1..15];
    for layer in layers.chunks_exact(7) {
        assert!(different(&layer[..3]) && different(&layer[4..6]), "{layer:?}");
    }
    check_all("kinds", &golden).await;
}

/// Random models have many near-ties; a trained one has few, so most of its tokens have to be equal.
#[tokio::test]
async fn a_trained_model_says_what_llama_cpp_says() {
    let trained = trained();
    assert_eq!(trained.forms.len(), 5);
    for (form, said) in &trained.forms {
        let regret = said.bounds().regret;
        let margins = said.replies.iter().flat_map(|reply| &reply.top).map(|t| t[0].1 - t[1].1);
        let (beyond, all) = (margins.clone().filter(|m| *m > regret).count(), margins.count());
        assert!(
            beyond * 10 > all * 8,
            "{form}: only {beyond} of {all} margins are beyond the bound"
        );
        let path = fixture(&format!("tiny-v1-{}.gguf", form.to_lowercase()));
        check(&path, &format!("tiny-v1 {form}"), said).await;
    }
}

/// A damaged file's figures.
fn damaged(family: &str, form: &str, library: &Library, damage: &Damage<'_>) -> (Figures, Figures) {
    let dir = tempfile::tempdir().unwrap();
    let golden = golden(family);
    let expected = &golden.forms[form];
    let path = dir.path().join("damaged.gguf");
    std::fs::write(&path, golden.compose(expected, library, damage)).unwrap();
    let figures = forced(&mut load(&path), &expected.said, false).figures();
    (figures, expected.said.bounds())
}

/// The same file with one property removed must give different results.
#[test]
fn the_oracle_notices_what_a_file_says() {
    let library = Library::read();
    let without: [(&str, &[&str]); 15] = [
        ("qwen2", &["scaling.type", "scaling.factor"]),
        ("qwen3", &["rope.freq_base"]),
        ("gemma2", &["attention.sliding_window"]),
        ("gemma2", &["attn_logit_softcapping"]),
        ("gemma2", &["final_logit_softcapping"]),
        ("gemma3", &["attention.sliding_window"]),
        ("gemma3", &["scaling.type", "scaling.factor"]),
        ("phi3-long", &["scaling.attn_factor"]),
        ("mistral3", &["yarn_log_multiplier"]),
        ("mistral3", &["attention.temperature_scale"]),
        ("granite", &["embedding_scale"]),
        ("granite", &["residual_scale"]),
        ("granite", &["logit_scale"]),
        ("glm4", &["rope.dimension_count"]),
        ("olmo3", &["attention.sliding_window"]),
    ];
    for (family, keys) in without {
        let (figures, bounds) = damaged(family, "F32", &library, &Damage::Without(keys));
        println!("{family} without {keys:?}: {figures:?} against {bounds:?}");
        assert!(!figures.within(&bounds), "{family} without {keys:?} looks the same");
    }
}

/// The token that is listed most often.
fn often(said: &Said) -> usize {
    let mut times = BTreeMap::new();
    let listed = said.replies.iter().flat_map(|reply| reply.top.iter().flatten());
    listed.for_each(|(id, _)| *times.entry(*id as usize).or_insert(0) += 1);
    times.into_iter().max_by_key(|(_, count)| *count).unwrap().0
}

/// Kernels with small errors, simulated by files with wrong values: the bounds have to be tight enough to
/// notice.
#[test]
fn the_oracle_notices_wrong_numerics() {
    let library = Library::read();
    let notices = |family: &str, form: &str, what: &str, change: &Change| {
        let (figures, bounds) = damaged(family, form, &library, &Damage::Rows(change));
        println!("{family} {form}, {what}: {figures:?} against {bounds:?}");
        assert!(!figures.within(&bounds), "{family} {form} with {what} looks the same");
    };
    for family in FAMILIES {
        let golden = golden(family);
        for form in ["Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"] {
            let token = often(&golden.forms[form].said);
            notices(family, form, "one scale of the wrong sign", &|name, kind, rows| {
                if name == golden.head() {
                    let at = if kind == Kind::Q6K { 209 } else { 1 };
                    rows[token * row_bytes(kind) + at] ^= 0x80;
                }
            });
            notices(family, form, "two rows of each tile swapped", &|name, kind, rows| {
                if name == "blk.0.ffn_down.weight" {
                    let len = row_bytes(kind);
                    let tiles = rows.chunks_exact_mut(16 * len);
                    tiles.for_each(|tile| tile[..2 * len].rotate_left(len));
                }
            });
        }
        // As much rounding as 7-bit inputs would cause.
        notices(family, "Q8_0", "weights of 7 bits", &|_, kind, rows| {
            let blocks = rows.chunks_exact_mut(kind.block_bytes());
            blocks.for_each(|block| block[2..].iter_mut().for_each(|q| *q &= !1));
        });
    }
    for kind in MORE {
        notices(
            "kinds",
            &kind.to_string(),
            "two rows of each tile swapped",
            &|name, kind, rows| {
                if name == "blk.0.ffn_down.weight" {
                    let len = row_bytes(kind);
                    rows.chunks_exact_mut(16 * len)
                        .for_each(|tile| tile[..2 * len].rotate_left(len));
                }
            },
        );
    }
}
