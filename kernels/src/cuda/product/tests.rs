//! Results of products on the emulated GPU, refusals, and the choice of kernels.

use super::names::Tile;
use super::*;
use crate::cuda::acts::Acts;
#[cfg(feature = "emulator")]
use crate::cuda::rows::Activation;
use proptest::prelude::*;

proptest! {
    #[test]
    fn rows_are_split_only_as_far_as_there_are_pieces(
        sets in 1usize..100_000, pieces in 1usize..64, warps in 1usize..4000,
    ) {
        let split = split(sets, pieces, 8, warps);
        prop_assert!(split.is_power_of_two() && split <= 8 && split <= pieces.max(1));
        prop_assert!(split == 1 || sets * split / 2 < warps, "more than it takes");
    }

    #[test]
    fn tiles_fit_a_card(which in 0..Tile::ALL.len(), large in any::<bool>()) {
        let tile = Tile::ALL[which];
        let properties = properties_of(large);
        for kind in Kind::on_cards().filter(|kind| kind.is_quantised()) {
            let shape = tile.shape(kind);
            let stages = shape.stages(&properties);
            prop_assert!((2..=4).contains(&stages));
            let split = !matches!(tile, Tile::Halves128 | Tile::Eights64);
            let sums = if split { shape.rows * shape.inputs * 4 } else { 0 };
            let tables = shape.shared_bytes(0);
            prop_assert!(sums + tables <= shape.shared_bytes(stages), "no room to add two parts");
            prop_assert!(!tile.eights() || shape.blocks(&properties) == 2, "one block: {tile:?} {kind:?}");
            prop_assert!(large || tile == Tile::Halves128
                || shape.shared_bytes(stages) <= properties.shared_per_block as usize, "{tile:?} {kind:?}");
        }
    }
}

fn properties_of(large: bool) -> DeviceProperties {
    DeviceProperties {
        name: String::new(),
        capability: if large { (9, 0) } else { (8, 9) },
        multiprocessors: if large { 132 } else { 128 },
        shared_per_block: if large { 227 << 10 } else { 99 << 10 },
        bandwidth: 0,
        clock: 0,
        emulated: true,
    }
}

#[cfg(feature = "emulator")]
mod emulated {
    use super::super::answers::{dense_checks, matrix, quantised_checks};
    use super::super::fused_answers::{self, Gated, Mixed};
    use super::super::normed_answers::{self, Normed};
    use super::*;
    use crate::cuda::acts::{ActBuffer, Scale};
    use crate::cuda::buffer::Buffer;
    use crate::cuda::check::{Bench, Numbers, Size, prove};
    use crate::cuda::emulated::{BACKWARDS, EmulatedCard};
    use crate::cuda::norm::{Unscaled, UnscaledBuffer, add, rms_pieces};
    use crate::cuda::rows::gated;

    #[test]
    fn answers_of_dense_products_are_known() {
        prove(dense_checks);
    }

    #[test]
    fn answers_of_quantised_products_are_known() {
        prove(quantised_checks);
    }

    #[test]
    fn answers_of_fused_products_are_known() {
        prove(fused_answers::checks);
    }

    #[test]
    fn answers_of_products_with_norms_are_known() {
        prove(normed_answers::checks);
    }

    /// Cards whose blocks run forwards and backwards: whichever is last.
    fn both_ways() -> [Bench; 2] {
        [0, BACKWARDS].map(|order| {
            let card = EmulatedCard::start(64 << 20);
            card.set_order(order);
            let card: Arc<dyn Card> = Arc::new(card);
            let pool = card.create_pool().unwrap();
            Bench { card, pool }
        })
    }

    /// Everything that was written, as bytes.
    fn written(card: &dyn Card, acts: &ActBuffer, form: ActKind, numbers: usize) -> Vec<u8> {
        let lengths = [numbers * form.bytes(), if form == ActKind::Q8 { numbers / 4 } else { 0 }];
        let mut all = Vec::new();
        for (arg, len) in acts.get(form, numbers).args().into_iter().zip(lengths) {
            let (Arg::Address(address), mut bytes) = (arg, vec![0; len]) else { continue };
            if len > 0 {
                card.download(address, &mut bytes, Stream::Compute).unwrap();
            }
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn gate_and_up_in_one_launch_are_what_separate_launches_give() {
        for bench in both_ways() {
            for case in fused_answers::gated(Size::Full) {
                let Gated { kind, outputs, columns, n, activation, biased } = case;
                let (card, form) = (&bench.card, kind.input_kind());
                let mut numbers = Numbers::new(5);
                let matrix = matrix(&bench, kind, 2 * outputs, columns, &mut numbers).unwrap().0;
                let acts = |numbers| {
                    ActBuffer::new(card, bench.pool, numbers, &[form], Stream::Compute).unwrap()
                };
                let mut x = acts(n * columns);
                fill(card, x.get_mut(form, n * columns));
                let bias = fused_answers::bias(2 * outputs, columns, biased, &mut numbers);
                let bias = Buffer::of(card, bench.pool, &bias).unwrap();
                let bias = biased.then(|| bias.view());
                let mut wide = Buffer::<f32>::new(card, bench.pool, 2 * n * outputs).unwrap();
                let (mut one, mut two) = (acts(n * outputs), acts(n * outputs));
                let x = x.get(form, n * columns);
                let to = Output::of(wide.view_mut(), 2 * outputs);
                multiply(&**card, &matrix, x, n, to, bias).unwrap();
                let out = two.get_mut(form, n * outputs);
                gated(&**card, activation, wide.view(), n, outputs, out).unwrap();
                let wanted = written(&**card, &two, form, n * outputs);
                let parts = [matrix];
                // Twice: a launch leaves the counts as it has found them.
                for _ in 0..2 {
                    let (wide, out) = (wide.view_mut(), one.get_mut(form, n * outputs));
                    multiply_gated(&**card, &parts, activation, x, n, wide, out, bias).unwrap();
                    let got = written(&**card, &one, form, n * outputs);
                    assert!(got == wanted, "{case:?}");
                }
            }
        }
    }

    /// The residual stream, and what the next product reads of it.
    struct Joined {
        stream: Buffer<f32>,
        acts: ActBuffer,
        squares: Buffer<f32>,
    }

    impl Joined {
        fn new(bench: &Bench, form: ActKind, before: &[f32]) -> Joined {
            let Bench { card, pool } = bench;
            let numbers = before.len();
            Joined {
                stream: Buffer::of(card, *pool, before).unwrap(),
                acts: ActBuffer::new(card, *pool, numbers, &[form], Stream::Compute).unwrap(),
                squares: Buffer::of(card, *pool, &vec![f32::NAN; numbers / PIECE]).unwrap(),
            }
        }

        /// All of it, as bytes; without what no product reads.
        fn bytes(&self, card: &dyn Card, form: ActKind, last: bool) -> Vec<u8> {
            let bits = |buffer: &Buffer<f32>| -> Vec<u8> {
                buffer.to_vec().unwrap().iter().flat_map(|v| v.to_bits().to_le_bytes()).collect()
            };
            let mut all = bits(&self.stream);
            if !last {
                all.extend(bits(&self.squares));
                all.extend(written(card, &self.acts, form, self.stream.len()));
            }
            all
        }
    }

    #[test]
    fn a_product_and_its_norm_in_one_launch_are_what_separate_launches_give() {
        for bench in both_ways() {
            for case in normed_answers::normed(Size::Full) {
                let Normed { kind, width, columns, n, biased, last } = case;
                let (card, pool, form) = (&bench.card, bench.pool, kind.input_kind());
                let mut numbers = Numbers::new(8);
                let matrix = matrix(&bench, kind, width, columns, &mut numbers).unwrap().0;
                let mut x =
                    ActBuffer::new(card, pool, n * columns, &[form], Stream::Compute).unwrap();
                fill(card, x.get_mut(form, n * columns));
                let x = x.get(form, n * columns);
                let bias = fused_answers::bias(width, columns, biased, &mut numbers);
                let bias = Buffer::of(card, pool, &bias).unwrap();
                let bias = biased.then(|| bias.view());
                let weight = Buffer::of(card, pool, &numbers.numbers(width)).unwrap();
                let mut branch = Buffer::<f32>::new(card, pool, n * width).unwrap();
                let before = numbers.numbers(n * width);
                let [mut one, mut two] = [(); 2].map(|()| Joined::new(&bench, form, &before));
                let parts = [matrix];
                // Twice: a launch leaves the counts as it has found them.
                for _ in 0..2 {
                    let to = Output::of(branch.view_mut(), width);
                    multiply(&**card, &parts[0], x, n, to, bias).unwrap();
                    let (stream, added) = (two.stream.view_mut(), branch.view());
                    let values = two.acts.get_mut(form, n * width);
                    let squares = two.squares.view_mut();
                    let out = Unscaled { weight: weight.view(), values, squares };
                    match last {
                        true => add(&**card, stream, added, None, n, width).unwrap(),
                        false => rms_pieces(&**card, stream, added, n, out).unwrap(),
                    }
                    let values = one.acts.get_mut(form, n * width);
                    let squares = one.squares.view_mut();
                    let out = Unscaled { weight: weight.view(), values, squares };
                    let (stream, scratch) = (one.stream.view_mut(), branch.view_mut());
                    let out = (!last).then_some(out);
                    multiply_normed(&**card, &parts, x, n, bias, stream, scratch, out).unwrap();
                    let [got, wanted] =
                        [&one, &two].map(|joined| joined.bytes(&**card, form, last));
                    assert!(got == wanted, "{case:?}");
                }
            }
        }
    }

    #[test]
    fn two_kinds_in_one_launch_are_what_separate_launches_give() {
        for bench in both_ways() {
            for case in fused_answers::mixed(Size::Full) {
                let Mixed { rows, columns, n, .. } = case;
                let (card, stride) = (&bench.card, rows[0] + rows[1]);
                let parts = case.matrices(&bench, &mut Numbers::new(6)).unwrap().0;
                let form = parts[0].input_kind(&**card, n);
                let mut x = ActBuffer::new(card, bench.pool, n * columns, &[form], Stream::Compute)
                    .unwrap();
                fill(card, x.get_mut(form, n * columns));
                let squares = Buffer::of(card, bench.pool, &vec![50.0; n * columns / PIECE]);
                let squares = squares.unwrap();
                let scale = leaves_scale(form, n, columns)
                    .then(|| Scale { squares: squares.view(), eps: 0.0 });
                let x = ProductInput { acts: x.get(form, n * columns), scale };
                let [mut one, mut two] =
                    [(); 2].map(|()| Buffer::<f32>::new(card, bench.pool, n * stride).unwrap());
                multiply_all(&**card, &parts, x, n, one.view_mut(), None).unwrap();
                // Each matrix as it is split in the launch of both.
                let shares = side_by_side::shares(&**card, parts.each_ref(), n);
                for (i, offset) in [0, rows[0]].into_iter().enumerate() {
                    let to = Output { values: two.view_mut(), stride, offset };
                    let Some(shares) = shares else {
                        multiply(&**card, &parts[i], x, n, to, None).unwrap();
                        continue;
                    };
                    let out = to.values.address() + 4 * offset as u64;
                    let (matrix, x) = (&parts[i], x);
                    let product = Product { matrix, x, n, out, stride, bias: 0 };
                    let tile = Tile::of(n, card.properties());
                    product.tiles(&**card, tile, shares[i]).unwrap();
                }
                let bits = |buffer: &Buffer<f32>| -> Vec<u32> {
                    buffer.to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
                };
                assert_eq!(bits(&one), bits(&two), "{case:?}");
            }
        }
    }

    /// Inputs that a launch writes.
    fn launched_inputs(bench: &Bench, form: ActKind, n: usize, columns: usize) -> ActBuffer {
        let (card, pool) = (&bench.card, bench.pool);
        let mut wide = Buffer::<f32>::new(card, pool, 2 * n * columns).unwrap();
        wide.fill(0).unwrap();
        let mut acts = ActBuffer::new(card, pool, n * columns, &[form], Stream::Compute).unwrap();
        let to = acts.get_mut(form, n * columns);
        gated(&**card, Activation::Silu, wide.view(), n, columns, to).unwrap();
        acts
    }

    /// A launch may begin early, and a checked build refuses one that reads what the launch before writes without having
    /// waited for it.
    #[test]
    fn inputs_of_the_launch_before_are_waited_for() {
        for bench in both_ways() {
            let (card, pool, columns) = (&bench.card, bench.pool, 512);
            let parts = [Kind::Q4K, Kind::Q6K].map(|kind| {
                let mut matrix = Matrix::new(card, pool, kind, 128, columns).unwrap();
                matrix.write_rows(0, &vec![1; 128 * matrix.row_bytes()], Stream::Load).unwrap();
                matrix
            });
            let mut out = Buffer::<f32>::new(card, pool, 64 * 256).unwrap();
            for tile in Tile::ALL {
                let form = Way::Tiles(tile).inputs(Kind::Q4K);
                let x = launched_inputs(&bench, form, 9, columns);
                let (x, to) = (x.get(form, 9 * columns), Output::of(out.view_mut(), 128));
                multiply_by(Way::Tiles(tile), &**card, &parts[0], x.into(), 9, to, None).unwrap();
            }
            for n in [3, 16, 32, 64] {
                let form = parts[0].input_kind(&**card, n);
                let x = launched_inputs(&bench, form, n, columns);
                let x = x.get(form, n * columns);
                multiply_all(&**card, &parts, x, n, out.view_mut(), None).unwrap();
                let mut to = ActBuffer::new(card, pool, n * 64, &[form], Stream::Compute).unwrap();
                let (silu, to) = (Activation::Silu, to.get_mut(form, n * 64));
                multiply_gated(&**card, &parts[..1], silu, x, n, out.view_mut(), to, None).unwrap();
            }
        }
    }

    /// Names of what is launched.
    fn launched(run: impl FnOnce(&Arc<dyn Card>, Pool)) -> Vec<&'static str> {
        let paper = Arc::new(crate::cuda::paper::DryRunCard::new((8, 9), 128, 99 << 10));
        let card: Arc<dyn Card> = paper.clone();
        run(&card, card.create_pool().unwrap());
        paper.take_noted().iter().map(|noted| noted.name()).collect()
    }

    #[test]
    fn what_belongs_together_is_one_launch_where_there_is_a_kernel() {
        let all = |kinds: &[Kind], n: usize| {
            launched(|card, pool| {
                let matrix = |kind: &Kind| Matrix::new(card, pool, *kind, 64, 256).unwrap();
                let parts: Vec<Matrix> = kinds.iter().map(matrix).collect();
                let form = parts[0].input_kind(&**card, n);
                let acts = ActBuffer::new(card, pool, n * 256, &[form], Stream::Compute).unwrap();
                let mut out = Buffer::new(card, pool, n * 64 * parts.len()).unwrap();
                let x = acts.get(form, n * 256);
                multiply_all(&**card, &parts, x, n, out.view_mut(), None).unwrap();
            })
        };
        assert_eq!(all(&[Kind::Q4K, Kind::Q6K], 3), ["product_mixed_3"]);
        assert_eq!(all(&[Kind::Q4K, Kind::Q6K], 9), ["product_pair_16"]);
        assert_eq!(all(&[Kind::Q5K, Kind::Q6K], 33), ["product_pair_64"]);
        assert_eq!(
            all(&[Kind::Q4K, Kind::Q8_0], 9),
            ["product_tiles_q4_k_16", "product_tiles_q8_0_16"]
        );
        assert_eq!(
            all(&[Kind::Q4K, Kind::Q8_0], 1),
            ["product_quant_q4_k_1", "product_quant_q8_0_1"]
        );
        assert_eq!(all(&[Kind::Q4K, Kind::Q6K, Kind::Q4K], 1).len(), 3);
        let gated = |kind: Kind, outputs: usize, form: ActKind, n: usize| {
            launched(|card, pool| {
                let parts = [Matrix::new(card, pool, kind, 2 * outputs, 256).unwrap()];
                let takes = parts[0].input_kind(&**card, n);
                let x = ActBuffer::new(card, pool, n * 256, &[takes], Stream::Compute).unwrap();
                let mut out =
                    ActBuffer::new(card, pool, n * outputs, &[form], Stream::Compute).unwrap();
                let mut wide = Buffer::new(card, pool, 2 * n * outputs).unwrap();
                let (x, wide) = (x.get(takes, n * 256), wide.view_mut());
                let (silu, out) = (Activation::Silu, out.get_mut(form, n * outputs));
                multiply_gated(&**card, &parts, silu, x, n, wide, out, None).unwrap();
            })
        };
        assert_eq!(gated(Kind::Q6K, 64, ActKind::Q8, 8), ["product_gated_q6_k_8"]);
        assert_eq!(gated(Kind::BF16, 3, ActKind::BF16, 2), ["product_gated_bf16"]);
        assert_eq!(gated(Kind::Q6K, 64, ActKind::Q8, 9), ["product_tiles_gated_q6_k_16"]);
        assert_eq!(gated(Kind::Q4K, 96, ActKind::Q8, 64), ["product_tiles_gated_q4_k_64"]);
        assert_eq!(gated(Kind::Q6K, 64, ActKind::Q8, 64)[0], "product_tiles_q6_k_64");
        // Another form of outputs, blocks that are not whole, more inputs than a tile has, floats.
        assert_eq!(gated(Kind::Q6K, 64, ActKind::BF16, 1).len(), 2);
        assert_eq!(gated(Kind::Q6K, 36, ActKind::F32, 1).len(), 2);
        assert_eq!(gated(Kind::Q6K, 64, ActKind::BF16, 9).len(), 2);
        assert_eq!(gated(Kind::Q6K, 64, ActKind::Q8, 65).len(), 2);
        assert_eq!(gated(Kind::F32, 64, ActKind::F32, 1).len(), 2);
    }

    #[test]
    fn a_product_and_its_norm_are_one_launch_where_there_is_a_kernel() {
        let normed = |kinds: &[Kind], width: usize, form: Option<ActKind>, n: usize| {
            launched(|card, pool| {
                let rows = width / kinds.len();
                let matrix = |kind: &Kind| Matrix::new(card, pool, *kind, rows, 256).unwrap();
                let parts: Vec<Matrix> = kinds.iter().map(matrix).collect();
                let takes = parts[0].input_kind(&**card, n);
                let x = ActBuffer::new(card, pool, n * 256, &[takes], Stream::Compute).unwrap();
                let [mut stream, mut branch, weight] =
                    [n * width, n * width, width].map(|len| Buffer::new(card, pool, len).unwrap());
                let forms = [ActKind::F32, ActKind::F16, ActKind::BF16, ActKind::Q8];
                let mut room =
                    UnscaledBuffer::new(card, pool, width, &forms, Stream::Compute).unwrap();
                let out = form.map(|form| room.get_mut(form, n, weight.view()));
                let (x, to, by) = (x.get(takes, n * 256), stream.view_mut(), branch.view_mut());
                multiply_normed(&**card, &parts, x, n, None, to, by, out).unwrap();
            })
        };
        let (q8, bf16) = (Some(ActKind::Q8), Some(ActKind::BF16));
        assert_eq!(normed(&[Kind::Q4K], 256, q8, 8), ["product_normed_q4_k_8"]);
        assert_eq!(normed(&[Kind::BF16], 128, bf16, 2), ["product_normed_bf16"]);
        assert_eq!(normed(&[Kind::Q6K], 128, None, 1), ["product_normed_q6_k_1"]);
        // Another form of rows, no kernel for the weights, two matrices, too many inputs, pieces that are not whole.
        let pieces = ["product_quant_q4_k_1", "norm_pieces_bf16"];
        assert_eq!(normed(&[Kind::Q4K], 128, bf16, 1), pieces);
        assert_eq!(normed(&[Kind::F16], 128, q8, 1), ["product_dense_f16", "norm_pieces_q8"]);
        assert_eq!(
            normed(&[Kind::Q4K, Kind::Q6K], 256, q8, 1),
            ["product_mixed_1", "norm_pieces_q8"]
        );
        assert_eq!(normed(&[Kind::Q4K], 256, q8, 9), ["product_tiles_normed_q4_k_16"]);
        assert_eq!(normed(&[Kind::Q6K], 128, None, 64), ["product_tiles_normed_q6_k_64"]);
        assert_eq!(normed(&[Kind::Q4K, Kind::Q6K], 256, q8, 32)[1], "norm_pieces_q8");
        assert_eq!(normed(&[Kind::Q4K], 128, None, 65)[1], "norm_4_f32");
        assert_eq!(normed(&[Kind::Q4K], 96, None, 1)[1], "norm_4_f32");
    }

    #[test]
    fn inputs_without_their_scale_are_refused_where_they_may_not_be() {
        let (card, pool) = card();
        let refused_of = |kind: Kind, columns: usize, n: usize, squares: usize| {
            let matrix = Matrix::new(&card, pool, kind, 8, columns).unwrap();
            let form = matrix.input_kind(&*card, n);
            let x = ActBuffer::new(&card, pool, n * columns, &[form], Stream::Compute).unwrap();
            let squares = Buffer::of(&card, pool, &vec![1.0f32; squares]).unwrap();
            let scale = Some(Scale { squares: squares.view(), eps: 0.0 });
            let x = ProductInput { acts: x.get(form, n * columns), scale };
            let mut out = Buffer::<f32>::new(&card, pool, n * 8).unwrap();
            refused(multiply(&*card, &matrix, x, n, Output::of(out.view_mut(), 8), None));
        };
        refused_of(Kind::Q8_0, 256, 2, 3);
        refused_of(Kind::Q8_0, 256, 9, 17);
        refused_of(Kind::Q8_0, 256, 65, 130);
        refused_of(Kind::BF16, 256, 9, 18);
        refused_of(Kind::Q8_0, 96, 1, 1);
        refused_of(Kind::F16, 256, 1, 2);
        refused_of(Kind::F32, 256, 1, 2);
    }

    #[test]
    fn they_are_on_a_card_with_room_for_the_largest_tiles() {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::large(64 << 20));
        let pool = card.create_pool().unwrap();
        let bench = crate::cuda::check::Bench { card, pool };
        let answers = quantised_checks(&bench, crate::cuda::check::Size::Full).unwrap();
        assert!(answers.iter().any(|answer| answer.case.contains("Halves128")));
        answers.iter().for_each(|answer| assert!(answer.holds(), "{answer}"));
    }

    fn card() -> (Arc<dyn Card>, Pool) {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(64 << 20));
        let pool = card.create_pool().unwrap();
        (card, pool)
    }

    fn refused(result: Result<(), CardError>) {
        assert!(matches!(result, Err(CardError::Shape(_))), "{result:?}");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (card, pool) = card();
        assert!(Matrix::new(&card, pool, Kind::Q4K, 4, 128).is_err());
        assert!(Matrix::new(&card, pool, Kind::F32, 0, 128).is_err());
        let mut matrix = Matrix::new(&card, pool, Kind::F32, 4, 8).unwrap();
        matrix.write_rows(0, &[0; 4 * 32], Stream::Load).unwrap();
        let x = Buffer::of(&card, pool, &[0.0f32; 16]).unwrap();
        let bias = Buffer::of(&card, pool, &[0.0f32; 4]).unwrap();
        let mut out = Buffer::<f32>::new(&card, pool, 12).unwrap();
        let mut run = |x: Acts<'_>, n, stride, offset, bias: Option<View<'_, f32>>| {
            let out = Output { values: out.view_mut(), stride, offset };
            multiply(&*card, &matrix, x, n, out, bias)
        };
        let floats = Acts::F32(x.view());
        run(floats, 2, 6, 2, Some(bias.view())).unwrap();
        run(floats, 0, 6, 2, None).unwrap();
        refused(run(floats, 3, 4, 0, None));
        refused(run(floats, 2, 6, 3, None));
        refused(run(floats, 2, 9, 0, None));
        refused(run(floats, 2, 6, 2, Some(bias.first(3))));
        refused(run(floats, usize::MAX, 6, 2, None));
        refused(run(Acts::F32(x.view().part(1, 8)), 1, 6, 2, None));
        refused(run(Acts::F16(x.view().cast()), 1, 6, 2, None));
    }

    #[test]
    fn rows_that_are_not_there_are_not_written() {
        let (card, pool) = card();
        let mut matrix = Matrix::new(&card, pool, Kind::Q8_0, 4, 32).unwrap();
        matrix.write_rows(3, &[0; 34], Stream::Load).unwrap();
        refused(matrix.write_rows(3, &[0; 68], Stream::Load));
        refused(matrix.write_rows(0, &[0; 33], Stream::Load));
        refused(matrix.write_rows(usize::MAX, &[0; 34], Stream::Load));
    }

    /// An answer does not depend on how many others are asked for with it, up to 8.
    #[test]
    fn company_changes_no_bit() {
        let (card, pool) = card();
        let bench = crate::cuda::check::Bench { card: card.clone(), pool };
        for kind in Kind::on_cards() {
            let mut numbers = crate::cuda::check::Numbers::new(7);
            let (matrix, _) = matrix(&bench, kind, 20, 1024, &mut numbers).unwrap();
            let same = |n: usize| -> Vec<u32> {
                let mut acts = crate::cuda::acts::ActBuffer::new(
                    &card,
                    pool,
                    n * 1024,
                    &[matrix.input_kind(&*card, n)],
                    Stream::Compute,
                )
                .unwrap();
                fill(&card, acts.get_mut(matrix.input_kind(&*card, n), n * 1024));
                let mut out = Buffer::<f32>::new(&card, pool, n * 20).unwrap();
                let acts = acts.get(matrix.input_kind(&*card, n), n * 1024);
                let squares = Numbers::new(9).numbers(n * 1024 / PIECE);
                let squares: Vec<f32> = squares.iter().map(|v| 2.0 + v).collect();
                let squares = Buffer::of(&card, pool, &squares).unwrap();
                let scale = Scale { squares: squares.view(), eps: 0.5 };
                let scale = leaves_scale(acts.kind(), n, 1024).then_some(scale);
                let x = ProductInput { acts, scale };
                let to = Output::of(out.view_mut(), 20);
                multiply(&*card, &matrix, x, n, to, None).unwrap();
                out.to_vec().unwrap()[..20].iter().map(|v| v.to_bits()).collect()
            };
            let alone = same(1);
            for n in 2..=8 {
                assert_eq!(same(n), alone, "{kind:?} among {n}");
            }
        }
    }

    /// Inputs that are the same for the first row whatever the number of rows.
    fn fill(card: &Arc<dyn Card>, acts: crate::cuda::acts::ActsMut<'_>) {
        use crate::cuda::acts::ActsMut;
        use crate::cuda::buffer::bytes_of;
        let put =
            |address: u64, bytes: &[u8]| card.upload(address, bytes, Stream::Compute).unwrap();
        let mut numbers = crate::cuda::check::Numbers::new(3);
        match acts {
            ActsMut::F32(v) => put(v.address(), bytes_of(&numbers.numbers(v.len()))),
            ActsMut::F16(v) => {
                let values: Vec<_> =
                    numbers.numbers(v.len()).into_iter().map(half::f16::from_f32).collect();
                put(v.address(), bytes_of(&values));
            }
            ActsMut::BF16(v) => {
                let values: Vec<_> =
                    numbers.numbers(v.len()).into_iter().map(half::bf16::from_f32).collect();
                put(v.address(), bytes_of(&values));
            }
            ActsMut::Q8 { values, scales } => {
                let q: Vec<i8> = (0..values.len()).map(|_| numbers.bits() as i8 / 2).collect();
                put(values.address(), bytes_of(&q));
                let mut numbers = crate::cuda::check::Numbers::new(4);
                put(scales.address(), bytes_of(&numbers.numbers(scales.len())));
            }
        }
    }
}
