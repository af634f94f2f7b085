//! What a vector kernel knows about a kind at compile time, besides the layout: how its bits become unsigned bytes.
//!
//! It comes from the kind's own file, so a kernel is written once for all kinds of a shape. It does not depend on the
//! instruction set.

use super::tile::{Layout, layout};
use crate::quant::{Content, Kind};

/// How 32 or 256 numbers of a kind become the unsigned bytes that are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub layout: Layout,
    /// Bits of a number in the tile.
    pub bits: usize,
    /// By how much the bytes are larger than the numbers: 0 or a power of two.
    pub offset: u8,
    /// The bytes that indices stand for, and the distance of their numbers from 0; 0 where there is no table.
    pub table: Option<[u8; 16]>,
    pub sizes: [u8; 16],
}

pub(super) const fn shape(kind: u8) -> Shape {
    let layout = layout(kind);
    let mut shape = Shape { layout, bits: layout.bits(), offset: 0, table: None, sizes: [0; 16] };
    let Content::Blocks(blocks) = &Kind::ALL[kind as usize].format().content else { return shape };
    let Some(tile) = &blocks.tile else { return shape };
    shape.offset = tile.offset;
    if let Some(table) = tile.table {
        let (mut bytes, mut i) = ([0; 16], 0);
        while i < 16 {
            bytes[i] = table[i].cast_unsigned().wrapping_add(tile.offset);
            shape.sizes[i] = table[i].unsigned_abs();
            i += 1;
        }
        shape.table = Some(bytes);
    }
    shape
}

impl Shape {
    /// The largest byte.
    pub const fn largest(&self) -> usize {
        let Some(table) = self.table else { return (1 << self.bits) - 1 };
        let (mut largest, mut i) = (0, 0);
        while i < 16 {
            largest = if table[i] as usize > largest { table[i] as usize } else { largest };
            i += 1;
        }
        largest
    }

    /// Groups of four columns whose products with an input of 127 a sum of 16 bits holds; two products each.
    pub const fn groups_in_16_bits(&self) -> usize {
        i16::MAX as usize / (2 * 127 * self.largest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_becomes_an_unsigned_byte() {
        for kind in Kind::ALL {
            let Some(tile) = kind.blocks().and_then(|blocks| blocks.tile.as_ref()) else {
                continue;
            };
            let shape = shape(kind as u8);
            assert!(tile.offset == 0 || tile.offset.is_power_of_two(), "{kind}");
            for (i, number) in tile.table.into_iter().flatten().enumerate() {
                let byte = i16::from(*number) + i16::from(tile.offset);
                assert_eq!(shape.table.map(|table| i16::from(table[i])), Some(byte), "{kind}");
            }
        }
    }

    /// What the kernels without 32-bit dot products rest on.
    #[test]
    fn sums_of_16_bits_hold_as_many_groups_as_kernels_add() {
        let groups = |kind: Kind| shape(kind as u8).groups_in_16_bits();
        for (kind, least) in [
            (Kind::Q4_0, 8),
            (Kind::Q4_1, 8),
            (Kind::Q4K, 8),
            (Kind::Q5_0, 4),
            (Kind::Q5_1, 4),
            (Kind::Q5K, 4),
            (Kind::MXFP4, 4),
            (Kind::Q6K, 2),
            (Kind::Q3K, 4),
            (Kind::Q2K, 4),
        ] {
            assert!(groups(kind) >= least, "{kind}");
        }
        // The table's numbers go by their sizes: no offset makes them fit.
        assert_eq!((groups(Kind::IQ4NL), groups(Kind::Q8_0)), (0, 0));
        assert!(shape(Kind::IQ4NL as u8).sizes.iter().all(|size| *size <= 127));
    }
}
