//! The files of the operators' page, compiled into the program, and the plotting library, which bench reports also use.
//!
//! `files/` is written by hand: HTML, CSS and JavaScript modules as browsers read them, without a build step.
//! `files/vendor/` holds third-party code, each with its licence. It does not know how they are served.

use rust_embed::RustEmbed;
use std::borrow::Cow;

#[derive(RustEmbed)]
#[folder = "src/web/files/"]
struct Files;

/// One embedded file.
pub struct File {
    /// Its bytes.
    pub bytes: Cow<'static, [u8]>,
    /// Its media type, with the character set of texts.
    pub media_type: String,
    /// An entity tag of its content (RFC 9110, section 8.8.3), quotes included.
    pub tag: String,
}

/// The file of this name below `files/`, such as `page.css`; `None` if there is none.
pub fn file(name: &str) -> Option<File> {
    let found = Files::get(name)?;
    let media_type = match found.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    let digest = found.metadata.sha256_hash();
    let tag = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(File { bytes: found.data, media_type, tag: format!("\"{tag}\"") })
}

/// Text that is no markup in HTML, in an attribute's value neither.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The plotting library uPlot as one script, for documents that stand alone.
pub const PLOT_SCRIPT: &str = include_str!("files/vendor/uplot/uPlot.iife.min.js");
/// The style sheet of [`PLOT_SCRIPT`].
pub const PLOT_STYLE: &str = include_str!("files/vendor/uplot/uPlot.min.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_with_their_type_and_a_tag_of_their_content() {
        let style = file("vendor/uplot/uPlot.min.css").expect("the style of plots");
        assert_eq!(style.media_type, "text/css; charset=utf-8");
        assert_eq!(&*style.bytes, PLOT_STYLE.as_bytes());
        let script = file("vendor/uplot/uPlot.iife.min.js").expect("the script of plots");
        assert!(script.media_type.starts_with("text/javascript"), "{}", script.media_type);
        assert!(script.tag != style.tag && script.tag.len() == 18, "{}", script.tag);
    }

    #[test]
    fn nothing_outside_the_folder_is_found() {
        for name in ["", "/", "../mod.rs", "mod.rs", "vendor", "vendor/uplot/"] {
            assert!(file(name).is_none(), "{name}");
        }
    }
}
