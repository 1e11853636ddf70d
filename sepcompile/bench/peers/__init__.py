"""The libraries raced against, one adapter module each; every adapter runs in a process of its own.

An adapter module has ``create(settings) -> Adapter`` and imports its library through ``importlib`` inside it, so that
naming a peer costs nothing and a missing library is a reason in the report.
"""

from __future__ import annotations

OURS = "sepcompile"

# name -> adapter module under sepcompile.bench.peers
MODULES = {
    OURS: "ours",
    "litert": "litert",
    "openvino-f32": "openvino_f32",
    "openvino-default": "openvino_default",
    "onnxruntime": "onnxruntime_",
    "torch-eager": "torch_eager",
    "torch-mkldnn": "torch_mkldnn",
    "torch-compile": "torch_compile",
    "jax": "jax_",
    "ncnn": "ncnn_",
    "mnn": "mnn_",
}

# Those whose adapters build whole blocks of models: activations before and between, a second input.
WHOLE_BLOCKS = (OURS, "litert", "openvino-f32", "openvino-default", "onnxruntime")

# What each adapter imports: a peer is present when all of these can be found.
REQUIRES = {
    OURS: ("sepcompile",),
    "litert": ("ai_edge_litert", "flatbuffers"),
    "openvino-f32": ("openvino",),
    "openvino-default": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "torch-eager": ("torch",),
    "torch-mkldnn": ("torch",),
    "torch-compile": ("torch",),
    "jax": ("jax",),
    "ncnn": ("ncnn",),
    "mnn": ("MNN", "onnx"),
}

# Environment that keeps a library's instruction set at or below a level, for those that can be told.
ISA_ENV = {
    "x86-64-v3": {
        "openvino-f32": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        "torch-eager": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        "torch-mkldnn": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        "torch-compile": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        "jax": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
    },
    "x86-64-v2": {
        "openvino-f32": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        "torch-eager": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
        "torch-mkldnn": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
        "jax": {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    },
}
