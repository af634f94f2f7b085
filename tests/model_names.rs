//! The models that most people run: which of them load, as the registries of architectures say.
//!
//! `SERIN_WRITE_DOCS=1 cargo test --test model_names` writes docs/model-names.md.

use serin::compat;
use serin::model::{families, gguf};
use std::fmt::Write;

/// A model's name, its architecture in `config.json` and in GGUF files, and why it is refused if it is.
type Row = (&'static str, &'static str, &'static str, &'static str);

const EXPERTS: &str = "mixture of experts";
const DELTA: &str = "linear attention (Gated DeltaNet) in most layers";
const MAMBA: &str = "Mamba-2 layers";

const MODELS: [Row; 34] = [
    ("Qwen3.5, 3.6 and 3.8, 0.8B to 27B", "Qwen3_5ForConditionalGeneration", "qwen35", DELTA),
    ("Qwen3.5 and 3.6 35B-A3B", "Qwen3_5MoeForConditionalGeneration", "qwen35moe", DELTA),
    ("Qwen3-Next-80B, Qwen3-Coder-Next", "Qwen3NextForCausalLM", "qwen3next", DELTA),
    ("Qwen3 0.6B to 32B", "Qwen3ForCausalLM", "qwen3", ""),
    ("Qwen3-30B-A3B, Qwen3-Coder-30B", "Qwen3MoeForCausalLM", "qwen3moe", EXPERTS),
    ("Qwen3-VL 2B to 32B (text)", "Qwen3VLForConditionalGeneration", "qwen3vl", ""),
    ("Qwen2.5 0.5B to 72B, QwQ-32B, DeepSeek-R1-Distill-Qwen", "Qwen2ForCausalLM", "qwen2", ""),
    (
        "Gemma 4 E2B, E4B, 12B, 31B",
        "Gemma4ForConditionalGeneration",
        "gemma4",
        "layers that share keys and values",
    ),
    ("Gemma 4 26B-A4B", "Gemma4ForConditionalGeneration", "gemma4", EXPERTS),
    ("Gemma 3 270M and 1B", "Gemma3ForCausalLM", "gemma3", ""),
    ("Gemma 3 4B to 27B (text)", "Gemma3ForConditionalGeneration", "gemma3", ""),
    ("Gemma 3n E2B, E4B", "Gemma3nForConditionalGeneration", "gemma3n", "embeddings per layer"),
    ("Gemma 2 2B to 27B", "Gemma2ForCausalLM", "gemma2", ""),
    ("gpt-oss-20b", "GptOssForCausalLM", "gpt-oss", EXPERTS),
    ("Llama 3.1, 3.2 (text), 3.3", "LlamaForCausalLM", "llama", ""),
    ("SmolLM2 135M to 1.7B", "LlamaForCausalLM", "llama", ""),
    ("SmolLM3-3B", "SmolLM3ForCausalLM", "smollm3", ""),
    ("Ministral 3 3B, 8B, 14B; Devstral 2 Small", "Ministral3ForCausalLM", "mistral3", ""),
    ("Mistral Small 3.1 and 3.2 (text)", "Mistral3ForConditionalGeneration", "llama", ""),
    ("Mistral 7B, Nemo, Small 3, Magistral", "MistralForCausalLM", "llama", ""),
    ("Mixtral 8x7B", "MixtralForCausalLM", "llama", EXPERTS),
    ("LFM2 and LFM2.5, 0.3B to 2.6B", "Lfm2ForCausalLM", "lfm2", "short convolutions"),
    (
        "LFM2-8B-A1B",
        "Lfm2MoeForCausalLM",
        "lfm2moe",
        "short convolutions, and a mixture of experts",
    ),
    ("Granite 3 and 4.1, 2B to 8B", "GraniteForCausalLM", "granite", ""),
    ("Granite 4 H tiny and small", "GraniteMoeHybridForCausalLM", "granitehybrid", MAMBA),
    ("Nemotron 3 and 3.5 nano 30B-A3B", "NemotronHForCausalLM", "nemotron_h_moe", MAMBA),
    ("GLM-4 9B and 32B (0414)", "Glm4ForCausalLM", "glm4", ""),
    (
        "GLM-4.7-Flash",
        "Glm4MoeLiteForCausalLM",
        "deepseek2",
        "latent attention, and a mixture of experts",
    ),
    (
        "DeepSeek-V2-Lite",
        "DeepseekV2ForCausalLM",
        "deepseek2",
        "latent attention, and a mixture of experts",
    ),
    ("OLMo 2 1B to 32B", "Olmo2ForCausalLM", "olmo2", ""),
    ("OLMo 3 7B and 32B", "Olmo3ForCausalLM", "olmo2", ""),
    ("Phi-4-mini, Phi-3-mini and medium, Phi-4", "Phi3ForCausalLM", "phi3", ""),
    ("Muse-Glimmer-30B", "MuseGlimmerForConditionalGeneration", "muse-glimmer", "gated attention"),
    ("Mellum2-12B-A2.5B", "MellumForCausalLM", "mellum", EXPERTS),
];

const PAGE: &str = "docs/model-names.md";

fn written() -> String {
    let mut page = String::from(
        "# Models by name\n\nWhich of the most used models serin can load. This page is generated: \
         `SERIN_WRITE_DOCS=1 cargo test --test model_names`.\n\nGGUF files may have any type of weights except TQ1_0, TQ2_0 \
         and NVFP4; safetensors are read in F32, F16 and BF16, and refused by name if they are quantised (FP8, AWQ, GPTQ). The compatibility lane is described \
         in [models.md](models.md).\n\n\
         | model | architecture | safetensors | GGUF |\n|---|---|---|---|\n",
    );
    for (name, class, file, why) in MODELS {
        let said = |loads: bool| if loads { "loads".to_owned() } else { format!("refused: {why}") };
        let folder = match compat::NAMES.contains(&class) && why != MAMBA {
            true => "loads, in the compatibility lane".to_owned(),
            false => said(families::supported().any(|known| known == class)),
        };
        // There, a mixture of experts may have the architecture of its dense siblings.
        let gguf = said(why.is_empty() && gguf::architectures().any(|known| known == file));
        writeln!(page, "| {name} | `{class}`, `{file}` | {folder} | {gguf} |").unwrap();
    }
    page
}

#[test]
fn the_page_of_names_is_what_the_registries_say() {
    for (name, class, file, why) in MODELS {
        let loads = families::supported().any(|known| known == class);
        assert_eq!(loads, why.is_empty(), "{name}: a reason if and only if it is refused");
        assert!(!loads || gguf::architectures().any(|known| known == file), "{name}: {file}");
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::write(&path, written()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, written(), "SERIN_WRITE_DOCS=1 cargo test --test model_names");
}
