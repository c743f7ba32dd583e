"""The shapes of known models, by the headers of their files: seven matrices in each layer, embedding and output layer apart."""

from lorad.records import ModelShape

SMOLLM2 = ModelShape(
    name="smollm2",
    parameters=134_515_008,
    layers=30,
    hidden=576,
    vocabulary=49_152,
    linear=106_168_320,
    widths=30 * 11_136,
)
LLAMA_3B = ModelShape(
    name="llama-3.2-3b",
    parameters=3_212_749_824,
    layers=28,
    hidden=3072,
    vocabulary=128_256,
    linear=2_818_572_288,
    widths=28 * (4 * 3072 + 2 * (3072 + 1024) + 3 * (3072 + 8192)),
)
LLAMA_8B = ModelShape(
    name="llama-3.1-8b",
    parameters=8_030_261_248,
    layers=32,
    hidden=4096,
    vocabulary=128_256,
    linear=6_979_321_856,
    widths=32 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14_336)),
)
