"""Tests of the pure parts, without a toolkit: `scripts/card_budget --self-test`."""

import dataclasses
import unittest

from card import budget as budgets
from card import kernels, model, sass
from card.cards import CARDS, KIB, occupancy
from card.machine_code import Usage

# As nvdisasm prints it: a loop over steps, which is left by a far jump that is written as a call; in it a way around
# the loads, taken on the last steps, and a loop that multiplies; behind the end, padding.
STEPS = """
.text.steps:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   BRA.U !UP0, `(.L_x_3) ;
.L_x_0:
        /*0020*/                   ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R4], [R2.64] ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R4+0x10], [R2.64+0x10] ;
.L_x_1:
        /*0060*/                   LDSM.16.M88.4 R8, [R6] ;
.L_x_2:
        /*0070*/                   HMMA.16816.F32.BF16 R12, R8, R10, R12 ;
        /*0080*/              @P1  BRA `(.L_x_2) ;
        /*0090*/              @P2  CALL.REL.NOINC `(.L_x_3) ;
        /*00a0*/                   BRA `(.L_x_0) ;
.L_x_3:
        /*00b0*/                   STL [R1], R12 ;
        /*00c0*/                   EXIT ;
.L_x_4:
        /*00d0*/                   BRA `(.L_x_4);
        /*00e0*/                   NOP;
"""
# A loop with a wide load and two narrow ones as alternatives, and a call of a function, which returns.
SIDES = """
.text.sides:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64) ;
.L_x_0:
        /*0020*/              @P0  BRA `(.L_x_1) ;
        /*0030*/                   LDG.E R4, [R2.64] ;
        /*0040*/                   LDG.E R5, [R2.64+0x4] ;
        /*0050*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0060*/                   LDG.E.EF.128.CONSTANT R4, [R2.64] ;
.L_x_2:
        /*0070*/                   FFMA R6, R4, R5, R6 ;
        /*0080*/              @!P1 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
"""
# Two rows, one input: sixteen dot products a pass.
VECTOR = ("\n.text.product_quant_q4_k_1:\n        /*0000*/  MOV R1, R2 ;\n.L_x_0:\n"
          + "        /*0010*/  LDG.E.128.CONSTANT R4, [R2.64] ;\n"
          + "        /*0020*/  IDP.4A.S8.S8 R0, R4, R5, R0 ;\n" * 16
          + "        /*0030*/  @P0 BRA `(.L_x_0) ;\n        /*0040*/  EXIT ;\n")


class Occupancy(unittest.TestCase):
    """Against `cudaOccMaxActiveBlocksPerMultiprocessor` of cuda_occupancy.h, CUDA 13.0."""

    # Architecture, threads, registers, shared memory; blocks.
    KNOWN = [
        (86, 128, 51, 512, 9), (86, 128, 168, 512, 3), (86, 256, 94, 69632, 1), (86, 256, 123, 65536, 1),
        (86, 1024, 64, 128, 1), (86, 128, 20, 0, 12), (86, 32, 16, 0, 16), (86, 512, 64, 25600, 2),
        (86, 128, 164, 40448, 2), (86, 256, 205, 77824, 1), (86, 256, 128, 112640, 0), (86, 96, 40, 10000, 9),
        (86, 64, 255, 0, 4), (86, 768, 80, 1024, 1), (86, 256, 80, 4096, 3), (86, 128, 33, 33000, 3),
        (89, 128, 51, 512, 9), (89, 256, 94, 69632, 1), (89, 32, 16, 0, 24), (89, 96, 40, 10000, 9),
        (90, 128, 51, 512, 9), (90, 128, 168, 512, 3), (90, 256, 94, 69632, 2), (90, 256, 123, 65536, 2),
        (90, 1024, 64, 128, 1), (90, 128, 20, 0, 16), (90, 32, 16, 0, 32), (90, 512, 64, 25600, 2),
        (90, 128, 164, 40448, 3), (90, 256, 205, 77824, 1), (90, 256, 128, 112640, 2), (90, 96, 40, 10000, 16),
        (90, 64, 255, 0, 4), (90, 768, 80, 1024, 1), (90, 256, 80, 4096, 3), (90, 128, 33, 33000, 6),
        (120, 128, 51, 512, 9), (120, 256, 94, 69632, 1), (120, 32, 16, 0, 24), (120, 96, 40, 10000, 9),
    ]

    def test_known_figures(self):
        for arch, threads, registers, shared, blocks in self.KNOWN:
            self.assertEqual(occupancy(arch, threads, registers, shared).blocks, blocks,
                             (arch, threads, registers, shared))

    def test_the_limit_is_named(self):
        self.assertEqual(occupancy(89, 128, 51, 512).limit, "registers")
        self.assertEqual(occupancy(89, 256, 94, 68 * KIB).limit, "shared")


class Sass(unittest.TestCase):
    def blocks(self, text, name):
        return sass.functions(text)[name]

    def test_a_pass_takes_the_loads_and_repeats_the_inner_loop(self):
        blocks = self.blocks(STEPS, "steps")
        loops = sass.loops(blocks)
        outer = max(loops, key=lambda loop: len(loop.blocks))
        self.assertEqual(sass.path(blocks, outer, loops, 1).instructions, 9)
        taken = sass.path(blocks, outer, loops, 2)
        self.assertEqual((taken.instructions, taken.count(sass.MATRIX), taken.count(sass.ASYNC)), (11, 2, 2))

    def test_inner_loop_and_padding(self):
        blocks = self.blocks(STEPS, "steps")
        sizes = sorted(sum(len(blocks[index].code) for index in loop.blocks) for loop in sass.loops(blocks))
        self.assertEqual(sizes, [1, 2, 9])

    def test_of_two_ways_the_wide_one_counts(self):
        blocks = self.blocks(SIDES, "sides")
        (loop,) = sass.loops(blocks)
        taken = sass.path(blocks, loop, [loop])
        self.assertEqual((taken.instructions, taken.count(sass.WIDE_LOAD)), (4, 1))

    def test_local_memory_is_seen(self):
        self.assertEqual(sass.total(sass.opcodes(self.blocks(STEPS, "steps")), sass.LOCAL), 1)


class Figures(unittest.TestCase):
    def figures(self, text=VECTOR, arch=89):
        blocks = sass.functions(text)["product_quant_q4_k_1"]
        return kernels.figures("product_quant_q4_k_1", arch, Usage(51, 0), blocks, (128, 512, 512))

    def test_instructions_per_weight(self):
        one = self.figures()
        self.assertEqual((one.loop, one.weights, one.warps), (18, 64, 36))

    def test_work_that_does_not_divide_is_an_error(self):
        with self.assertRaises(kernels.Unknown):
            self.figures(VECTOR.replace("IDP.4A.S8.S8 R0, R4, R5, R0", "NOP", 1))

    def budget(self):
        empty = {"only": {}, "targets": [{"kernels": "product_*", "what": "per_weight", "value": 0.25}],
                 "launches": {}, "kernels": {}}
        table = {"layers": {"q": {"1 plain": ["a"]}}, "steps": {"8B q4_k_m": {"card": {"decode 1": ["2 a 1x1x1 32"]}}}}
        return budgets.updated([self.figures(arch=arch) for arch in budgets.ARCHS], table, empty)

    def test_todays_figures_are_within_todays_budget(self):
        self.assertEqual(budgets.compare([self.figures()], self.budget()), [])

    def test_each_figure_that_is_worse_is_named(self):
        for what, value in (("registers", 200), ("local", 1), ("loop", 19), ("wide", 0), ("dynamic", 100 * KIB)):
            one = self.figures()
            setattr(one, what, value)
            if what == "registers":
                one.blocks = 2
            found = budgets.compare([one], self.budget())
            self.assertEqual([(it.kernel, it.arch) for it in found], [("product_quant_q4_k_1", 89)], what)

    def test_a_kernel_without_a_budget_and_a_budget_without_a_kernel(self):
        one = self.figures()
        one.kernel = "another"
        self.assertEqual(sorted(str(it).split()[0] for it in budgets.compare([one], self.budget())),
                         ["another", "product_quant_q4_k_1:"])

    def test_targets_are_reported_apart(self):
        ((words, missed, count),) = budgets.targets([self.figures()], self.budget())
        self.assertEqual((words, len(missed), count), ("product_*: instructions per weight, at most 0.25", 1, 1))

    def test_launches(self):
        table = {"layers": {"q": {"1 plain": ["a"] * 3, "8 fine": ["a"] * 2, "32 plain": ["a"] * 5}},
                 "steps": {"8B q4_k_m": {"card": {"decode 1": ["2 a 1x1x1 32", "5 b 1x1x1 32"]}}}}
        budget = {"launches": {"layer": {"budget": 3, "target": 2}, "token": {"budget": 6, "target": 9}}}
        (over,) = budgets.compare_launches(table, budget)
        self.assertEqual((over.what, over.figure, over.allowed), ("launches a token", 7, 6))
        (missed,) = budgets.compare_launches(table, budget, "target")
        self.assertEqual(missed.figure, 3)
        self.assertEqual(budgets.launches(table), {"layer": 3, "layer with many rows": 5, "token": 7})


class Model(unittest.TestCase):
    """What a step's time must do, whatever the constants."""

    BUDGET = {"kernels": {"product_quant_q4_k_1": {"per_weight": [2.0] * 4, "blocks": [8] * 4, "loop": [0] * 4},
                          "product_halves_q4_k_32": {"per_weight": [5.0] * 4, "blocks": [1, 1, 2, 1], "loop": [0] * 4}}}
    STEP = model.Step(model.SHAPES["8B"], 1, False, 100)
    VECTOR = model.Line.read("3 product_quant_q4_k_1 3584x1x1 128 q4_k 28672x4096")
    TILES = model.Line.read("1 product_halves_q4_k_32 1x224x1 256 q4_k 28672x4096")

    def test_lines_are_read(self):
        line = self.VECTOR
        self.assertEqual((line.count, line.blocks, line.weights), (3, (3584, 1, 1), 28672 * 4096))

    def test_two_matrices_of_a_launch_are_both_counted(self):
        line = model.Line.read("1 product_mixed_1 768x1x1 128 q4_k 5120x4096 q6_k 1024x4096")
        read, written = model.traffic(line, self.STEP)
        self.assertEqual((line.weights, written), (6144 * 4096, 4 * 6144))
        self.assertEqual(read, 4096 * (5120 * 144 + 1024 * 210) / 256)
        budget = {"kernels": {f"product_quant_{kind}_1": {"per_weight": [each] * 4}
                              for kind, each in (("q4_k", 2.0), ("q6_k", 5.0))}}
        kernels_of = model.Kernels(89, budget, model.Change())
        issued = model.block_instructions(CARDS["RTX 4090"], line, self.STEP, kernels_of) * 768 * 32
        # And of each warp, for the scale of its inputs.
        self.assertAlmostEqual(issued, 4096 * (5120 * 2 + 1024 * 5) + model.SCALE * 4 * 768 * 32)

    def test_two_matrices_in_tiles_are_both_counted(self):
        line = model.Line.read("1 product_pair_32 1x328x1 256 q4_k 5100x4096 q6_k 1000x4096")
        budget = {"kernels": {f"product_tiles_{kind}_32": {"per_weight": [each] * 4, "blocks": [2] * 4}
                              for kind, each in (("q4_k", 5.0), ("q6_k", 9.0))}}
        kernels_of = model.Kernels(89, budget, model.Change())
        step = model.Step(model.SHAPES["8B"], 32, False, 100)
        issued = model.block_instructions(CARDS["RTX 4090"], line, step, kernels_of) * 328 * 32
        self.assertAlmostEqual(issued, 4096 * (5120 * 5 + 1024 * 9))
        # 40 and 8 tiles, of which blocks share the columns.
        self.assertEqual(model.ramps(line, 1), 2)
        self.assertEqual(model.ramps(dataclasses.replace(line, blocks=(1, 48, 1)), 1), 1)

    def test_minima_take_tensor_cores_too(self):
        card, step = CARDS["RTX 4090"], model.Step(model.SHAPES["8B"], 32, False, 100)
        lines = [model.Line.read(f"1 product_tiles_{kind}_32 1x32x1 256 {kind} 4096x4096") for kind in ("q4_k", "q6_k")]
        times = [model.tensor_time(card, line, step) for line in lines]
        self.assertAlmostEqual(times[0], 2 * times[1])

    def test_the_last_blocks_work_takes_time(self):
        for one, other in (("attention_decode_f16_128 8x8x1", "attention_decode_f16_128 1x64x1"),
                           ("product_gated_q4_k_1 64x1x1", "product_gated_bf16 64x1x1")):
            lines = [model.Line.read(f"1 {name} 128") for name in (one, other)]
            times = [model.predict(CARDS["RTX 4090"], [line], self.STEP, self.BUDGET).launches for line in lines]
            self.assertAlmostEqual(times[0] - times[1], model.JOIN)

    def test_a_norm_takes_time_at_the_end_of_the_product_before_and_of_the_one_after(self):
        card, eight = CARDS["H100"], model.Step(model.SHAPES["8B"], 8, False, 100)
        instruction = model.FREE_INTERVAL / card.clock

        def ends(name, step=self.STEP):
            time = model.predict(card, [model.Line.read(f"1 {name} 64x1x1 128 q4_k 4096x4096")], step, self.BUDGET)
            return time.launches - model.RAMP

        normed, after = ends("product_normed_q4_k_1"), ends("product_quant_q4_k_1")
        self.assertAlmostEqual(normed, model.JOIN + model.PIECE * instruction)
        self.assertAlmostEqual(after - model.GAP, model.SCALE * instruction)
        # Four warps have two inputs each.
        self.assertAlmostEqual(ends("product_normed_q4_k_8", eight) - normed, model.PIECE * instruction)

    def test_a_norm_takes_time_behind_tiles(self):
        card = CARDS["RTX 3060"]
        kept = {"per_weight": [5.0] * 4, "blocks": [2] * 4}
        budget = {"kernels": {f"product_tiles{what}_q4_k_32": kept for what in ("", "_normed")}}

        def launches(name, columns, rows=32):
            step = model.Step(model.SHAPES["8B"], rows, False, 100)
            line = model.Line.read(f"1 {name}_q4_k_32 1x64x1 256 q4_k 8192x{columns}")
            return model.predict(card, [line], step, budget).launches

        plain = launches("product_tiles", 14336)
        # 64 tiles on 28 multiprocessors, two at a time; eight warps have four inputs each.
        piece, scale = (2 * count * model.INTERVAL / card.clock for count in (model.TILE_PIECE, model.TILE_SCALE))
        self.assertAlmostEqual(launches("product_tiles_normed", 4096) - plain, 4 * piece)
        self.assertAlmostEqual(launches("product_tiles", 4096) - plain, scale)
        self.assertAlmostEqual(launches("product_tiles", 4096, 65), plain)

    def test_an_activation_takes_time_behind_tiles(self):
        card, step = CARDS["RTX 3060"], model.Step(model.SHAPES["8B"], 32, False, 100)
        kept = {"per_weight": [5.0] * 4, "blocks": [2] * 4}
        budget = {"kernels": {f"product_tiles{gated}_q4_k_32": kept for gated in ("", "_gated")}}
        lines = [model.Line.read(f"1 product_tiles{gated}_q4_k_32 1x224x1 256 q4_k 28672x4096") for gated in ("", "_gated")]
        plain, gated = (model.predict(card, [line], step, budget) for line in lines)
        # 224 tiles on 28 multiprocessors, two at a time; 256 threads have 64 outputs of 32 inputs, four each at a time.
        activation = 4 * 2 * model.ACTIVATION * model.INTERVAL / card.clock
        self.assertAlmostEqual(gated.launches - plain.launches, activation)
        self.assertEqual(gated.issue, plain.issue)
        shared = model.Line.read("1 product_tiles_gated_q4_k_32 1x224x3 256 q4_k 28672x4096")
        self.assertAlmostEqual(model.activation_time(card, shared, 2), activation)
        self.assertLess(model.traffic(lines[1], step)[1], model.traffic(lines[0], step)[1] / 4)

    def test_what_experts_give_is_normed_by_a_launch(self):
        step = model.Step(model.SHAPES["30B-A3B"], 1, False, 100)
        lines = model.expand([model.Line.read("48 product_normed_q4_k_1 512x1x1 128 q4_k 2048x768")], step)
        self.assertEqual([line.name for line in lines], ["product_quant_q4_k_1", "norm_4_q8", "router"])
        lines = model.expand([model.Line.read("48 product_tiles_normed_q4_k_32 1x16x1 256 q4_k 2048x768")],
                             dataclasses.replace(step, n=512))
        self.assertEqual([line.name for line in lines], ["product_tiles_q4_k_32", "norm_4_q8", "router"])

    def test_one_row_is_limited_by_memory(self):
        time = model.predict(CARDS["RTX 4090"], [self.VECTOR], self.STEP, self.BUDGET)
        bytes_read = 3 * 28672 * (4096 * 144 / 256 + 4 / model.L2)
        self.assertAlmostEqual(time.memory, bytes_read / (model.BANDWIDTH * 1008e9))
        self.assertEqual((time.issue, time.count), (0, 3))

    def test_two_blocks_of_tiles_are_faster_than_one(self):
        card = CARDS["RTX 4090"]
        step = model.Step(model.SHAPES["8B"], 32, False, 100)
        times = [model.predict(card, [self.TILES], step, self.BUDGET, model.Change(tile_blocks=blocks)).total
                 for blocks in (1, 2)]
        self.assertLess(times[1], times[0])

    def test_overlap_is_sm_90s_alone(self):
        lines = [model.Line.read("5 norm_4_q8 1x1x1 1024")]
        times = [model.predict(CARDS[name], lines, self.STEP, self.BUDGET).launches for name in ("RTX 4090", "H100")]
        self.assertAlmostEqual(times[0], 5 * (model.RAMP + model.GAP))
        self.assertAlmostEqual(times[1], 5 * model.RAMP)

    def test_a_gap_is_hidden_by_the_work_that_is_left(self):
        def hidden(text, longest=2 * model.GAP, late=False):
            line = model.Line.read(f"1 {text}")
            return model.hides_gap(CARDS["RTX 5090"], line, 2, longest, late, model.Change())

        # Tiles that are joined afterwards, or have an activation behind them, and such as have neither.
        tiles = "product_tiles_q4_k_32 1x32x{} 256 q4_k 4096x4096"
        gated = "product_tiles_gated_q4_k_32 1x224x1 256 q4_k 28672x4096"
        pair = "product_pair_32 1x{}x1 256 q4_k 5120x4096 q6_k 1024x4096"
        self.assertTrue(all(map(hidden, (tiles.format(2), gated, pair.format(96)))))
        self.assertFalse(any(map(hidden, (tiles.format(1), pair.format(48)))))
        self.assertFalse(hidden("attention_decode_f16_128 2x8x8 128"))
        self.assertTrue(hidden("attention_decode_f16_128 1x8x32 128"))
        self.assertFalse(hidden("attention_decode_f16_128 1x8x32 128", longest=model.GAP))
        # What begins when all is over is hidden behind nothing.
        self.assertFalse(hidden("norm_4_bf16 32x1x1 1024", late=True) or hidden(gated, late=True))

    def test_all_experts_are_read_by_many_tokens(self):
        shape = model.SHAPES["30B-A3B"]
        self.assertAlmostEqual(model.expert_share(shape, 1), 8)
        self.assertAlmostEqual(model.expert_share(shape, 512), 128, places=3)


def run():
    """Exit code."""
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case)
                               for case in (Occupancy, Sass, Figures, Model))
    return 0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1
