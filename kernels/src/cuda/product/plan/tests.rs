//! Plans are the cheapest of their candidates, and the plans of real models on real GPUs are as listed.

use super::*;
use crate::cuda::card::DeviceProperties;
use proptest::prelude::*;

const ROOM: usize = 8 << 20;

/// The memory's GB/s and the clock in MHz last.
fn card(
    capability: (u32, u32),
    [multiprocessors, shared]: [u32; 2],
    [bandwidth, clock]: [u64; 2],
) -> DeviceProperties {
    DeviceProperties {
        name: String::new(),
        capability,
        multiprocessors,
        shared_per_block: shared << 10,
        bandwidth: bandwidth * 1_000_000_000,
        clock: clock * 1_000_000,
        emulated: true,
    }
}

fn cards() -> [DeviceProperties; 4] {
    [
        card((8, 6), [28, 99], [360, 1777]),
        card((8, 9), [128, 99], [1008, 2520]),
        card((12, 0), [170, 99], [1792, 2407]),
        card((9, 0), [132, 227], [3352, 1830]),
    ]
}

proptest! {
    #[test]
    fn no_number_of_shares_is_cheaper(
        rows in 1usize..200_000, columns in 1usize..600, inputs in 9usize..3000, which in 0usize..4,
        kind in 0usize..5, room in 0usize..2 * ROOM,
    ) {
        let properties = &cards()[which];
        let kind = Kind::on_cards().filter(|kind| kind.is_quantised()).nth(kind).unwrap();
        let task = Task { kind, rows, columns: columns * 64, inputs, properties, room };
        let tile = Tile::of(inputs, properties);
        let best = task.plan(tile);
        for shares in 1..=task.most_shares(tile) {
            let other = Plan { tile, shares };
            prop_assert!(task.cycles(best) <= task.cycles(other), "{best:?} {other:?}");
        }
    }

    #[test]
    fn every_share_has_work_and_room(
        rows in 1usize..200_000, columns in 1usize..600, inputs in 9usize..3000, which in 0usize..4,
        room in 0usize..2 * ROOM,
    ) {
        let properties = &cards()[which];
        let task = Task { kind: Kind::Q4K, rows, columns: columns * 64, inputs, properties, room };
        let Plan { tile, shares } = task.plan(Tile::of(inputs, properties));
        let shape = tile.shape(Kind::Q4K);
        let sums = task.tiles(tile) * shape.rows * shape.inputs * shares;
        prop_assert!((1..=MOST_SHARES).contains(&shares));
        // The last step may be a part of one.
        let steps = (columns * 64).div_ceil(128);
        prop_assert!(shares == 1 || sums <= room && steps >= shares * LEAST_STEPS);
    }

    #[test]
    fn tiles_of_geforce_have_8_bits_and_room_for_no_more_than_it_takes(
        inputs in 9usize..5000, which in 0usize..4,
    ) {
        let properties = &cards()[which];
        let tile = Tile::of(inputs, properties);
        let most = tile.shape(Kind::Q4K).inputs;
        prop_assert_eq!(tile.eights(), which < 3);
        prop_assert!(most < 2 * inputs.max(8) && (most >= inputs || most >= 64));
    }
}

/// Card, model, inputs; the tile of all its products in Q4_K, and the shares of q|k|v, of the attention's output, of
/// gate|up and of `down`. Those of the H100 with 32 inputs are what its speed was measured with
/// (benches/runs/card-h100-steps.md).
type Row = (&'static str, &'static str, usize, Tile, [usize; 4]);
const PLANS: [Row; 24] = [
    ("RTX 3060", "0.6B", 32, Tile::Eights32, [1, 4, 1, 6]),
    ("RTX 3060", "0.6B", 512, Tile::Eights64, [1, 4, 1, 6]),
    ("RTX 3060", "8B", 32, Tile::Eights32, [1, 3, 1, 7]),
    ("RTX 3060", "8B", 512, Tile::Eights64, [1, 3, 1, 3]),
    ("RTX 3060", "14B", 32, Tile::Eights32, [1, 4, 1, 4]),
    ("RTX 3060", "14B", 512, Tile::Eights64, [1, 1, 1, 1]),
    ("RTX 4090", "0.6B", 32, Tile::Eights32, [2, 4, 2, 6]),
    ("RTX 4090", "0.6B", 512, Tile::Eights64, [1, 4, 2, 4]),
    ("RTX 4090", "8B", 32, Tile::Eights32, [5, 8, 1, 8]),
    ("RTX 4090", "8B", 512, Tile::Eights64, [2, 1, 1, 1]),
    ("RTX 4090", "14B", 32, Tile::Eights32, [4, 6, 2, 6]),
    ("RTX 4090", "14B", 512, Tile::Eights64, [1, 3, 1, 3]),
    ("RTX 5090", "0.6B", 32, Tile::Eights32, [2, 4, 2, 6]),
    ("RTX 5090", "0.6B", 512, Tile::Eights64, [1, 4, 2, 5]),
    ("RTX 5090", "8B", 32, Tile::Eights32, [7, 8, 1, 10]),
    ("RTX 5090", "8B", 512, Tile::Eights64, [2, 1, 1, 1]),
    ("RTX 5090", "14B", 32, Tile::Eights32, [6, 8, 1, 8]),
    ("RTX 5090", "14B", 512, Tile::Eights64, [2, 1, 1, 1]),
    ("H100", "0.6B", 32, Tile::Halves32, [2, 4, 2, 6]),
    ("H100", "0.6B", 512, Tile::Halves128, [2, 4, 1, 6]),
    ("H100", "8B", 32, Tile::Halves32, [5, 8, 1, 8]),
    ("H100", "8B", 512, Tile::Halves128, [2, 2, 1, 2]),
    ("H100", "14B", 32, Tile::Halves32, [4, 6, 5, 6]),
    ("H100", "14B", 512, Tile::Halves128, [1, 3, 1, 3]),
];

/// Rows and columns of those products.
fn products(model: &str) -> [(usize, usize); 4] {
    let (hidden, heads, kv_heads, intermediate) = match model {
        "0.6B" => (1024, 16, 8, 3072),
        "8B" => (4096, 32, 8, 14_336),
        _ => (5120, 40, 8, 17_408),
    };
    let queries = heads * 128;
    [
        (queries + 2 * kv_heads * 128, hidden),
        (hidden, queries),
        (2 * intermediate, hidden),
        (hidden, intermediate),
    ]
}

#[test]
fn plans_of_real_models_are_known() {
    for (name, model, inputs, tile, shares) in PLANS {
        let at = ["RTX 3060", "RTX 4090", "RTX 5090", "H100"].iter().position(|one| *one == name);
        let properties = &cards()[at.unwrap()];
        let plans = products(model).map(|(rows, columns)| {
            let task = Task { kind: Kind::Q4K, rows, columns, inputs, properties, room: ROOM };
            task.plan(Tile::of(inputs, properties))
        });
        assert_eq!(plans, shares.map(|shares| Plan { tile, shares }), "{name}, {model}, {inputs}");
    }
}

/// Queries and keys in Q4_K, values in Q6_K, whose blocks take longer: all of their blocks are one wave, of two on each
/// multiprocessor, or whole ones.
#[test]
fn two_products_of_a_launch_fill_a_card_together() {
    let tile = Tile::Eights32;
    for (which, columns, rows, wanted) in [
        (0, 4096, [5120, 1024], [2, 4]),
        (1, 4096, [5120, 1024], [5, 7]),
        (2, 4096, [5120, 1024], [6, 8]),
        (2, 5120, [6144, 1024], [5, 8]),
    ] {
        let properties = &cards()[which];
        let task = |kind, rows| Task { kind, rows, columns, inputs: 32, properties, room: ROOM };
        let tasks = [task(Kind::Q4K, rows[0]), task(Kind::Q6K, rows[1])];
        let best = together(&tasks, tile, |_| true).unwrap();
        assert_eq!(best, wanted, "{}, {columns}", properties.multiprocessors);
        let launch = Launch::of(&tasks, tile);
        let [first, second] = tasks.each_ref().map(|task| task.most_shares(tile));
        for shares in (1..=first).flat_map(|one| (1..=second).map(move |two| [one, two])) {
            let cycles = [best, shares].map(|shares| launch.cycles(shares));
            assert!(cycles[0] <= cycles[1], "{best:?} {shares:?}");
        }
        let few = together(&tasks, tile, |shares| shares[0] + shares[1] <= 3).unwrap();
        assert!(few[0] + few[1] <= 3);
        assert_eq!(together(&tasks, tile, |_| false), None);
    }
}

/// Of the products of larger models, with numbers of inputs that fill their tiles.
#[test]
fn with_8_bits_products_are_cheaper_on_geforce() {
    let tiles = [
        (16, Tile::Eights16, Tile::Halves16),
        (32, Tile::Eights32, Tile::Halves32),
        (64, Tile::Eights64, Tile::Halves64),
    ];
    for properties in &cards()[..3] {
        for (rows, columns) in ["8B", "14B"].into_iter().flat_map(products) {
            for (inputs, eights, halves) in tiles {
                let task = Task { kind: Kind::Q4K, rows, columns, inputs, properties, room: ROOM };
                let [eights, halves] = [eights, halves].map(|tile| task.cycles(task.plan(tile)));
                assert!(eights < halves, "{inputs} inputs, {rows} x {columns}: {eights}, {halves}");
            }
        }
    }
}
