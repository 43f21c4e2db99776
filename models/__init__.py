"""The model zoo, by name. A model is its mixer: everything around it is the same `Encoder`.

The registry holds the import path of each mixer's class, so that names can be listed and checked without importing
JAX. To add a mixer, write its module and add its line here. A mixer elsewhere needs no line:
`--models=their_package.module:Class`.
"""

MIXERS: dict[str, str] = {
    "transformer": "models.attention:Attention",
    "transformer_naive": "models.attention:NaiveAttention",
    "local": "models.local:Local",
    "sparse": "models.sparse:Sparse",
    "longformer": "models.longformer:Longformer",
    "bigbird": "models.bigbird:BigBird",
    "reformer": "models.reformer:Reformer",
    "sinkhorn": "models.sinkhorn:Sinkhorn",
    "fnet": "models.fnet:FNet",
    "fnet_hybrid": "models.fnet_hybrid:FNetHybrid",
    "linear_mixing": "models.linear_mixing:LinearMixing",
    "random_mixing": "models.random_mixing:RandomMixing",
    "ff_only": "models.ff_only:FeedForwardOnly",
    "linformer": "models.linformer:Linformer",
    "synthesizer": "models.synthesizer:Synthesizer",
    "linear_transformer": "models.linear_transformer:LinearTransformer",
    "performer": "models.performer:Performer",
    "nystromformer": "models.nystromformer:Nystromformer",
    "luna": "models.luna:Luna",
    "cosformer": "models.cosformer:Cosformer",
    "skyformer": "models.skyformer:Skyformer",
}
