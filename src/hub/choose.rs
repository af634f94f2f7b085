//! Chooses the files of a repository that are needed: one GGUF, whole or in parts, or config, tokenizer and safetensors.
//!
//! A pure function of the names. Other files in repositories (other formats, pictures, the same weights
//! twice) are not downloaded.

use super::{HubError, Reference};

const SIDE_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) names: Vec<String>,
    /// The model is this file (the first of its parts), not the folder.
    pub(super) single: Option<String>,
}

pub(super) fn files(reference: &Reference, names: &[String]) -> Result<Files, HubError> {
    let none = |what: String| HubError::NoModel { repo: reference.repo.clone(), what };
    // Of a model in parts, the first stands for all.
    let ggufs: Vec<&String> =
        names.iter().filter(|n| n.ends_with(".gguf") && part(n).is_none_or(|p| p.1 == 1)).collect();
    let single =
        |name: &str| Ok(Files { names: with_parts(name, names)?, single: Some(name.to_owned()) });
    if let Some(wanted) = &reference.file {
        return named(wanted, names, &ggufs).and_then(|name| single(&name)).map_err(none);
    }
    let weights = |name: &&String| {
        name.as_str() == "model.safetensors"
            || (name.starts_with("model-") && name.ends_with(".safetensors"))
    };
    let mut found: Vec<String> = names.iter().filter(weights).cloned().collect();
    if found.iter().any(|name| name == "model.safetensors") {
        found.retain(|name| name == "model.safetensors");
    }
    if !found.is_empty() {
        let side = names.iter().filter(|name| SIDE_FILES.contains(&name.as_str()));
        // Small files first, so that errors in them are found before gigabytes are downloaded.
        let names = side.cloned().chain(found).collect();
        return Ok(Files { names, single: None });
    }
    match ggufs.as_slice() {
        [one] => single(one).map_err(none),
        [] => Err(none("neither safetensors nor GGUF".into())),
        many => Err(none(format!("choose one of its GGUF files: {}", list(many)))),
    }
}

/// The file with exactly this name, or the only GGUF whose name contains it.
fn named(wanted: &str, names: &[String], ggufs: &[&String]) -> Result<String, String> {
    if let Some(exact) = names.iter().find(|name| *name == wanted) {
        // Any part stands for the model.
        let first = |(stem, _, count): (&str, u32, u32)| part_name(stem, 1, count);
        return Ok(part(exact).map_or_else(|| exact.clone(), first));
    }
    let part = wanted.to_lowercase();
    let matching: Vec<&String> =
        ggufs.iter().filter(|name| name.to_lowercase().contains(&part)).copied().collect();
    match matching.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(format!("it has no file {wanted}; its GGUF files: {}", list(ggufs))),
        many => Err(format!("{wanted} could be any of {}", list(many))),
    }
}

/// The name of a part of a split model taken apart: what is common to all parts, its number, and how many there are.
fn part(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let number_of = |text: &str| text.parse().ok().filter(|_| text.len() == 5);
    Some((stem, number_of(number)?, number_of(count)?))
}

fn part_name(stem: &str, number: u32, count: u32) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// The file, with the other parts if it is the first of several.
fn with_parts(name: &str, names: &[String]) -> Result<Vec<String>, String> {
    let Some((stem, _, count)) = part(name) else { return Ok(vec![name.to_owned()]) };
    let there = |number: &u32| names.contains(&part_name(stem, *number, count));
    match (1..=count).find(|number| !there(number)) {
        Some(missing) => Err(format!("its file {} is missing", part_name(stem, missing, count))),
        None => Ok((1..=count).map(|number| part_name(stem, number, count)).collect()),
    }
}

fn list(names: &[&String]) -> String {
    const MOST: usize = 12;
    let mut text: Vec<&str> = names.iter().take(MOST).map(|name| name.as_str()).collect();
    if text.is_empty() {
        text.push("none");
    } else if names.len() > MOST {
        text.push("...");
    }
    text.join(", ")
}
