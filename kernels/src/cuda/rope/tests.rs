//! Known answers of rotations in several orders of threads, and the shapes that are refused.

use super::*;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::Stream;
use crate::cuda::check::{Bench, refused};
use crate::cuda::e4m3;
use crate::cuda::kv::KvLayer;
use crate::cuda::rows::answers::Input;
use proptest::prelude::*;

#[test]
fn answers_are_known() {
    crate::cuda::check::prove(answers::checks);
}

#[test]
fn angles_are_the_hosts() {
    let bench = Bench::emulated(16 << 20);
    let positions: Vec<u32> = (0..2000).map(|i| i * 524).collect();
    let at = Buffer::of(&bench.card, bench.pool, &positions).unwrap();
    let frequency = 0.7;
    let inv = Input::new(&bench, 0, &[frequency]).unwrap();
    let frequencies = Frequencies { inv_freq: inv.view(), long_inv_freq: None, factor: 1.0 };
    let mut cos = Buffer::<f32>::new(&bench.card, bench.pool, positions.len()).unwrap();
    let mut sin = Buffer::<f32>::new(&bench.card, bench.pool, positions.len()).unwrap();
    let turns = Turns {
        positions: at.view(),
        longs: at.view(),
        frequencies,
        cos: cos.view_mut(),
        sin: sin.view_mut(),
    };
    angles(&*bench.card, turns).unwrap();
    let (cos, sin) = (cos.to_vec().unwrap(), sin.to_vec().unwrap());
    for (i, position) in positions.iter().enumerate() {
        let (s, c) = (*position as f32 * frequency).sin_cos();
        assert!((s - sin[i]).abs() < 1e-6 && (c - cos[i]).abs() < 1e-6, "position {position}");
    }
}

#[test]
fn angles_that_do_not_fit_are_refused() {
    let bench = Bench::emulated(16 << 20);
    let card = &*bench.card;
    let at = Buffer::of(&bench.card, bench.pool, &[0u32, 1, 2]).unwrap();
    let inv = Input::new(&bench, 0, &[1.0, 0.5]).unwrap();
    let mut cos = Input::new(&bench, 0, &[0.0; 6]).unwrap();
    let mut sin = Input::new(&bench, 0, &[0.0; 5]).unwrap();
    let (long_inv_freq, inv_freq) = (Some(inv.view().part(0, 1)), inv.view());
    let fine = Frequencies { inv_freq, long_inv_freq: None, factor: 1.0 };
    let uneven = Frequencies { inv_freq, long_inv_freq, factor: 1.0 };
    let (all, two) = (at.view(), at.first(2));
    fn of<'a>(
        card: &dyn Card,
        [positions, longs]: [View<'a, u32>; 2],
        frequencies: Frequencies<'a>,
        [cos, sin]: [&'a mut Input; 2],
    ) -> Result<(), CardError> {
        let (cos, sin) = (cos.view_mut(), sin.view_mut());
        angles(card, Turns { positions, longs, frequencies, cos, sin })
    }
    refused(of(card, [all, two], fine, [&mut cos, &mut sin]), "2 marks");
    refused(of(card, [two, two], uneven, [&mut cos, &mut sin]), "2 frequencies, and 1 long");
    refused(of(card, [all, all], fine, [&mut cos, &mut sin]), "angles: sines");
    refused(of(card, [all, all], fine, [&mut sin, &mut cos]), "angles: cosines");
}

fn layer(bench: &Bench, head_dim: usize) -> KvLayer {
    layer_of(bench, head_dim, KvKind::I8)
}

fn layer_of(bench: &Bench, head_dim: usize, kind: KvKind) -> KvLayer {
    let shape = KvShape { blocks: 2, block_size: 4, kv_heads: 1, head_dim };
    KvLayer::new(&bench.card, bench.pool, shape, kind, Stream::Compute).unwrap()
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let bench = Bench::emulated(16 << 20);
    let card = &*bench.card;
    let mut kv = layer(&bench, 8);
    let slots = Buffer::of(&bench.card, bench.pool, &[0u32, 1]).unwrap();
    let mut qkv = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let other = Input::new(&bench, 0, &[0.0; 32]).unwrap();
    let part = |len: usize| other.view().part(0, len);
    let angles = Angles { half: 4, cos: part(8), sin: part(8) };
    let fine = Heads { count: 2, bias: None, norms: None, angles, scaled: None };
    let mut ask = |heads: Heads, slots, kv: &mut KvLayer| {
        prepare(card, &heads, qkv.view_mut(), slots, kv.view_mut())
    };
    ask(fine, slots.view(), &mut kv).unwrap();
    refused(ask(Heads { count: 3, ..fine }, slots.view(), &mut kv), "prepare: qkv");
    refused(ask(Heads { bias: Some(part(31)), ..fine }, slots.view(), &mut kv), "31 biases");
    let norms = Some(HeadNorms { query: part(8), key: part(7), eps: 0.0 });
    refused(ask(Heads { norms, ..fine }, slots.view(), &mut kv), "8 and 7 weights");
    let angles = Angles { half: 5, cos: part(10), sin: part(10) };
    refused(ask(Heads { angles, ..fine }, slots.view(), &mut kv), "5 angles for heads of 8");
    let angles = Angles { half: 4, cos: part(8), sin: part(7) };
    refused(ask(Heads { angles, ..fine }, slots.view(), &mut kv), "prepare: sines");
    let angles = Angles { half: 4, cos: part(7), sin: part(8) };
    refused(ask(Heads { angles, ..fine }, slots.view(), &mut kv), "prepare: cosines");
    for (odd, what) in [(7, "heads of 7"), (514, "heads of 514")] {
        refused(ask(fine, slots.view(), &mut layer(&bench, odd)), what);
    }
}

#[test]
fn a_cache_that_is_none_is_refused() {
    let bench = Bench::emulated(16 << 20);
    let (mut kv, slots) = (layer(&bench, 8), Buffer::of(&bench.card, bench.pool, &[0u32]).unwrap());
    let mut qkv = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let angles = Angles { half: 0, cos: View::none(), sin: View::none() };
    let heads = Heads { count: 2, bias: None, norms: None, angles, scaled: None };
    let mut ask = |change: &dyn Fn(&mut KvViewMut)| {
        let mut view = kv.view_mut();
        change(&mut view);
        prepare(&*bench.card, &heads, qkv.view_mut(), slots.view(), view)
    };
    ask(&|_| ()).unwrap();
    refused(ask(&|kv| kv.shape.blocks = 3), "are no cache of");
    refused(ask(&|kv| kv.kind = KvKind::F16), "are no cache of");
    refused(ask(&|kv| kv.shape.blocks = 1 << 30), "a cache of 1073741824 blocks");
}

#[test]
fn a_value_that_is_not_a_number_stays_one() {
    let bench = Bench::emulated(16 << 20);
    let (mut kv, slots) = (layer(&bench, 8), Buffer::of(&bench.card, bench.pool, &[5u32]).unwrap());
    let mut values = [1.0; 24];
    values[18] = f32::NAN;
    let mut qkv = Input::new(&bench, 0, &values).unwrap();
    let angles = Angles { half: 0, cos: View::none(), sin: View::none() };
    let heads = Heads { count: 1, bias: None, norms: None, angles, scaled: None };
    prepare(&*bench.card, &heads, qkv.view_mut(), slots.view(), kv.view_mut()).unwrap();
    let view = kv.view();
    let mut scales = [[0u8; 4]; 2];
    for (scale, of) in scales.iter_mut().zip([view.key_scales, view.value_scales]) {
        let stream = crate::cuda::card::Stream::Compute;
        bench.card.download(of.part(5, 1).address(), scale, stream).unwrap();
    }
    let [key, value] = scales.map(f32::from_le_bytes);
    assert!((key - 1.0 / 127.0).abs() < 1e-8 && value.is_nan(), "{key} {value}");
}

/// Numbers as the bytes that a cache in E4M3 keeps of them as a value.
fn kept_in_e4m3(values: &[f32]) -> Vec<u8> {
    let (bench, dim) = (Bench::emulated(16 << 20), values.len());
    let mut kv = layer_of(&bench, dim, KvKind::E4M3);
    let slots = Buffer::of(&bench.card, bench.pool, &[0u32]).unwrap();
    let heads = [&vec![0.0; 2 * dim][..], values].concat();
    let mut qkv = Input::new(&bench, 0, &heads).unwrap();
    let angles = Angles { half: 0, cos: View::none(), sin: View::none() };
    let heads = Heads { count: 1, bias: None, norms: None, angles, scaled: None };
    prepare(&*bench.card, &heads, qkv.view_mut(), slots.view(), kv.view_mut()).unwrap();
    let mut bytes = vec![0; dim];
    bench.card.download(kv.view().values.address(), &mut bytes, Stream::Compute).unwrap();
    bytes
}

/// Every number of the format, those half way to the next, and what lies beside those.
#[test]
fn numbers_round_to_the_nearest_in_e4m3() {
    let magnitudes = (0..0x7e).map(|byte| {
        let (low, high) = (e4m3::value(byte) as f32, e4m3::value(byte + 1) as f32);
        let half = f32::midpoint(low, high);
        [low, half.next_down(), half, half.next_up()]
    });
    let beyond = [448.0, 463.9, 464.0, 480.0, 65504.0, f32::MAX, f32::INFINITY, f32::NAN];
    let magnitudes: Vec<f32> = magnitudes.flatten().chain(beyond).collect();
    for chunk in magnitudes.chunks(64) {
        let values: Vec<f32> = chunk.iter().flat_map(|v| [*v, -*v]).collect();
        let wanted: Vec<u8> = values.iter().map(|v| e4m3::nearest(f64::from(*v))).collect();
        assert_eq!(kept_in_e4m3(&values), wanted, "{values:?}");
    }
}

proptest! {
    #[test]
    fn any_bits_round_to_the_nearest_in_e4m3(bits in proptest::collection::vec(any::<u32>(), 128)) {
        let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let wanted: Vec<u8> = values.iter().map(|v| e4m3::nearest(f64::from(*v))).collect();
        prop_assert_eq!(kept_in_e4m3(&values), wanted, "{:?}", values);
    }

    #[test]
    fn every_head_has_a_warp(tokens in 1usize..5000, all in 3usize..300, half_dim in 1usize..=256) {
        let grid = grid(tokens, all, 2 * half_dim);
        let warps = grid.threads[0] as usize / 32;
        prop_assert_eq!(grid.blocks[0] as usize, tokens);
        prop_assert!(warps <= WARPS && grid.blocks[1] as usize * WARPS >= all);
        prop_assert!((grid.blocks[1] as usize - 1) * WARPS < all);
        prop_assert!(grid.shared as usize >= warps * 2 * half_dim * 4);
        prop_assert!(grid.shared <= 8192 && grid.threads[0] <= 128);
    }
}
