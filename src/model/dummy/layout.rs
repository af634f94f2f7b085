//! The tensors of every family: names and shapes that follow from its layout and its config.
//!
//! A list and not a model: it says what a checkpoint would contain. It is tested against the lists of real
//! checkpoints.

use super::super::config::ModelConfig;
use super::super::layout;
use super::super::names::{Names, Wanted};

/// The role of a tensor, as far as its type depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    Head,
    Matrix,
    /// A matrix that llama.cpp's mixtures keep in a more precise type.
    Important,
    Norm,
    Bias,
}

pub(super) type Listed = (String, Vec<usize>, Role);

pub(super) fn tensors(config: &ModelConfig) -> Vec<Listed> {
    let whole = |(name, shape): Wanted, role| (name, shape.to_vec(), role);
    let mut list = vec![whole(Names::embedding(config), Role::Embedding)];
    for index in 0..config.layers {
        matrices(Names { config, index }, &mut list);
        norms(config, index, &mut list);
    }
    list.push((layout::NORM.to_owned(), vec![config.hidden], Role::Norm));
    if !config.tied_embeddings {
        list.push(whole(Names::head(config), Role::Head));
    }
    list
}

/// A layer's matrices and their biases.
fn matrices(names: Names<'_>, list: &mut Vec<Listed>) {
    let bias = names.config.bias;
    let [qkv, out, gate_up, down] = names.projections();
    let last_of_split = |at: usize, all: &[Wanted]| all.len() == 3 && at == 2;
    let fine = is_important(names.index, names.config.layers);
    let parts = [(qkv, bias.qkv), (out, bias.out), (gate_up, bias.mlp), (down, bias.mlp)];
    for (part, (wanted, biased)) in parts.into_iter().enumerate() {
        for (at, (name, [rows, columns])) in wanted.iter().enumerate() {
            // Values, and the projection back from the feed-forward part.
            let important = fine && (part == 3 || part == 0 && last_of_split(at, &wanted));
            let role = if important { Role::Important } else { Role::Matrix };
            list.push((name.clone(), vec![*rows, *columns], role));
            if biased {
                let name = name.strip_suffix("weight").unwrap_or(name);
                list.push((format!("{name}bias"), vec![*rows], Role::Bias));
            }
        }
    }
}

fn norms(config: &ModelConfig, index: usize, list: &mut Vec<Listed>) {
    let layout = config.layout;
    let mut add = |name: &str, len: usize| {
        let name = layout::in_layer(index, &format!("{name}.weight"));
        list.push((name, vec![len], Role::Norm));
    };
    let whole =
        [layout.attention_norm, layout.attention_post_norm, layout.mlp_norm, layout.mlp_post_norm];
    whole.into_iter().flatten().for_each(|name| add(name, config.hidden));
    if let Some(norms) = layout.head_norms {
        let lengths = config.normed_at_once(norms.over);
        norms.names.iter().zip(lengths).for_each(|(name, len)| add(name, len));
    }
}

/// llama.cpp's choice for its `_M` mixtures: the first and last eighth, and every third between.
fn is_important(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}
