//! A quantised kind's description for GPUs: the sizes of its planes, and the names of its kernels.
//!
//! It is plain data, filled in by each kind's file in `quant`. `weights` uses it to lay out planes, and `product` to
//! choose kernels.

use super::acts::ActKind;

/// A kind of weights on a card.
pub(crate) struct OnCard {
    /// The form in which a product of a few inputs takes them.
    pub input: ActKind,
    /// Bytes of a block that go to each plane: low bits, further bits, scales, scales of scales.
    pub shares: [usize; 4],
    /// Whether a scale comes with a minimum. Tiles of 8 bits take it away on tensor cores.
    pub minimum: bool,
    /// Bytes of scales that a product in tiles has in shared memory: for 32 columns of a row, and for a row.
    pub staged: [usize; 2],
    pub kernels: KernelNames,
    /// Sorts a stored block into the planes; `None`: rows lie as they are stored.
    pub sort: Option<fn(Planes<'_>, &[u8])>,
}

/// One block's places in the four planes.
pub(crate) struct Planes<'a> {
    pub low: &'a mut [u8],
    pub high: &'a mut [u8],
    pub scales: &'a mut [u8],
    pub supers: &'a mut [u8],
}

/// The kernels of one kind of weights.
pub(crate) struct KernelNames {
    /// Picks rows.
    pub embed: &'static str,
    /// Products of 1 to 8 inputs in the kind's own form of them.
    pub few: [&'static str; 8],
    /// The same of gate and up together, the activation and the next product's form of inputs included.
    pub gated: Option<[&'static str; 8]>,
    /// Products that join the residual stream, and the norm after in the kind's own form of inputs.
    pub normed: Option<[&'static str; 8]>,
    /// Products in tiles, in the order of `product::names::Tile`.
    pub tiles: Option<[&'static str; 7]>,
    /// As `gated` in tiles of 8-bit inputs, in the order of `product::names::Tile`.
    pub tiles_gated: &'static [&'static str],
    /// As `normed` in tiles of 8-bit inputs, in the order of `product::names::Tile`.
    pub tiles_normed: &'static [&'static str],
}

/// A prefix with each of these ends.
macro_rules! ending {
    ($prefix:expr; $($end:literal)*) => { [$(concat!($prefix, $end)),*] };
}

/// Names that end in the number of inputs.
macro_rules! to_8 {
    ($prefix:expr) => {
        $crate::cuda::on_card::ending!($prefix; "1" "2" "3" "4" "5" "6" "7" "8")
    };
}

/// The [`KernelNames`] that `EACH_KIND` of quant.cuh makes.
macro_rules! quantised {
    ($kind:literal) => {
        $crate::cuda::on_card::quantised!($kind; "16" "32" "64")
    };
    // `gated`: the tiles that gate and up have.
    ($kind:literal; $($gated:literal)*) => {
        $crate::cuda::on_card::KernelNames {
            embed: concat!("embed_", $kind),
            few: $crate::cuda::on_card::to_8!(concat!("product_quant_", $kind, "_")),
            gated: Some($crate::cuda::on_card::to_8!(concat!("product_gated_", $kind, "_"))),
            normed: Some($crate::cuda::on_card::to_8!(concat!("product_normed_", $kind, "_"))),
            tiles: Some([
                concat!("product_halves_", $kind, "_16"),
                concat!("product_halves_", $kind, "_32"),
                concat!("product_halves_", $kind, "_64"),
                concat!("product_halves_", $kind, "_128"),
                concat!("product_tiles_", $kind, "_16"),
                concat!("product_tiles_", $kind, "_32"),
                concat!("product_tiles_", $kind, "_64"),
            ]),
            tiles_gated: &$crate::cuda::on_card::ending!(
                concat!("product_tiles_gated_", $kind, "_"); $($gated)*
            ),
            tiles_normed: &$crate::cuda::on_card::ending!(
                concat!("product_tiles_normed_", $kind, "_"); "16" "32" "64"
            ),
        }
    };
}

pub(crate) use {ending, quantised, to_8};
