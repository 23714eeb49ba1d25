"""The components that ship with llmcf, registered by the same call that plugins use."""

from __future__ import annotations

from llmcf_cli.plugin.registry import Registry


def register(registry: Registry) -> None:
    """Add every built-in component. Targets are strings: nothing is imported here."""
    _data(registry)
    _llm(registry)
    _match(registry)
    _rec(registry)
    _baselines(registry)


def _data(registry: Registry) -> None:
    add = registry.add
    sources = "llmcf_cli.data.sources"
    add(
        "source",
        "recbole",
        config=f"{sources}.config:RecBoleConfig",
        target=f"{sources}.recbole:RecBoleSource",
        summary="RecBole atomic files (.inter, .item, .user)",
    )
    add(
        "source",
        "parquet",
        config=f"{sources}.config:ParquetConfig",
        target=f"{sources}.tables:TableSource",
        summary="Parquet tables, columns mapped in the recipe",
    )
    add(
        "source",
        "csv",
        config=f"{sources}.config:CsvConfig",
        target=f"{sources}.tables:TableSource",
        summary="CSV or TSV tables, columns mapped in the recipe",
    )
    add(
        "source",
        "amazon2014",
        config=f"{sources}.config:Amazon2014Config",
        target=f"{sources}.amazon:Amazon2014Source",
        summary="Amazon reviews 2014: gzipped JSON lines of reviews and metadata",
    )
    add(
        "label",
        "rating",
        config="llmcf_cli.data.config:RatingLabelConfig",
        target="llmcf_cli.data.label:RatingLabel",
        summary="positive from a rating threshold on",
    )
    add(
        "label",
        "implicit",
        config="llmcf_cli.data.config:ImplicitLabelConfig",
        target="llmcf_cli.data.label:ImplicitLabel",
        summary="every interaction positive, negatives sampled",
    )
    add(
        "negatives",
        "uniform",
        config="llmcf_cli.data.config:UniformNegativesConfig",
        target="llmcf_cli.data.negatives:UniformNegatives",
        summary="items drawn uniformly",
    )
    add(
        "negatives",
        "popularity",
        config="llmcf_cli.data.config:PopularityNegativesConfig",
        target="llmcf_cli.data.negatives:PopularityNegatives",
        summary="items drawn by train popularity",
    )
    add(
        "split",
        "global_time",
        config="llmcf_cli.data.config:GlobalTimeConfig",
        target="llmcf_cli.data.split:GlobalTimeSplit",
        summary="one cut in time for all users",
    )
    add(
        "split",
        "leave_one_out",
        config="llmcf_cli.data.config:LeaveOneOutConfig",
        target="llmcf_cli.data.split:LeaveOneOutSplit",
        summary="each user's last event to test, the one before to validation",
    )


def _llm(registry: Registry) -> None:
    add = registry.add
    config = "llmcf_cli.llm.config"
    add(
        "mix_source",
        "recommendation",
        config=f"{config}:RecommendationMixConfig",
        target="llmcf_cli.llm.mix:RecommendationSource",
        summary="yes/no questions from the data set's train rows",
    )
    add(
        "mix_source",
        "parquet",
        config=f"{config}:ParquetMixConfig",
        target="llmcf_cli.llm.mix:FileSource",
        summary="instruction–answer pairs in a Parquet file",
    )
    add(
        "mix_source",
        "jsonl",
        config=f"{config}:JsonlMixConfig",
        target="llmcf_cli.llm.mix:FileSource",
        summary="instruction–answer pairs in JSON lines",
    )
    add(
        "tuner",
        "full",
        config=f"{config}:FullTuneConfig",
        target="llmcf_cli.llm.tune:tune",
        summary="all parameters",
    )
    add(
        "tuner",
        "lora",
        config=f"{config}:LoraTuneConfig",
        target="llmcf_cli.llm.tune:tune",
        summary="low-rank adapters, merged after training",
    )
    add(
        "engine",
        "transformers",
        config=f"{config}:TransformersEngineConfig",
        target="llmcf_cli.llm.engines.transformers:TransformersEngine",
        summary="a local model, length-sorted batches",
    )
    add(
        "judge",
        "rubric",
        config=f"{config}:RubricJudgeConfig",
        target="llmcf_cli.llm.judge:RubricJudge",
        summary="coherence, completeness, relevance and consistency, equal weights",
    )


def _match(registry: Registry) -> None:
    add = registry.add
    add(
        "space",
        "text",
        config="llmcf_cli.match.config:TextSpaceConfig",
        target="llmcf_cli.match.space:TextSpace",
        summary="text vectors of history ⊕ item",
    )
    add(
        "space",
        "hybrid",
        config="llmcf_cli.match.config:HybridSpaceConfig",
        target="llmcf_cli.match.space:HybridSpace",
        summary="text and collaborative vectors of history ⊕ item",
    )
    add(
        "searcher",
        "exact",
        config="llmcf_cli.match.config:ExactSearchConfig",
        target="llmcf_cli.match.exact:ExactSearcher",
        summary="blocked matrix products with a running top-K",
    )
    add(
        "searcher",
        "random",
        config="llmcf_cli.match.config:RandomSearchConfig",
        target="llmcf_cli.match.random:RandomSearcher",
        summary="control: random examples under the same guards",
    )


def _rec(registry: Registry) -> None:
    add = registry.add
    config = "llmcf_cli.rec.config"
    add(
        "backbone",
        "deepfm",
        config=f"{config}:DeepFMConfig",
        target="llmcf_cli.rec.ranking.deepfm:DeepFM",
        summary="factorisation machine + MLP (Guo et al., 2017)",
    )
    add(
        "backbone",
        "xdeepfm",
        config=f"{config}:XDeepFMConfig",
        target="llmcf_cli.rec.ranking.xdeepfm:XDeepFM",
        summary="compressed interaction network + MLP (Lian et al., 2018)",
    )
    add(
        "backbone",
        "autoint",
        config=f"{config}:AutoIntConfig",
        target="llmcf_cli.rec.ranking.autoint:AutoInt",
        summary="multi-head self-attention over fields + MLP (Song et al., 2019)",
    )
    add(
        "backbone",
        "dcn",
        config=f"{config}:DCNConfig",
        target="llmcf_cli.rec.ranking.dcn:DCN",
        summary="cross network + MLP (Wang et al., 2017)",
    )
    add(
        "backbone",
        "dcnv2",
        config=f"{config}:DCNv2Config",
        target="llmcf_cli.rec.ranking.dcnv2:DCNv2",
        summary="cross network of low-rank experts + MLP (Wang et al., 2021)",
    )
    add(
        "backbone",
        "din",
        config=f"{config}:DINConfig",
        target="llmcf_cli.rec.ranking.din:DIN",
        summary="target attention over the history (Zhou et al., 2018)",
    )
    add(
        "augmenter",
        "none",
        config=f"{config}:NoneConfig",
        target="llmcf_cli.rec.augment.none:NoAugmenter",
        summary="the backbone alone",
    )
    add(
        "augmenter",
        "text",
        config=f"{config}:TextConfig",
        target="llmcf_cli.rec.augment.text:TextAugmenter",
        summary="control: item and history text vectors, no examples",
    )
    add(
        "augmenter",
        "mean",
        config=f"{config}:MeanConfig",
        target="llmcf_cli.rec.augment.mean:MeanAugmenter",
        summary="ablation of LLM-CF: the tokens of the examples averaged, no decoder",
    )
    add(
        "augmenter",
        "signals",
        config=f"{config}:SignalsConfig",
        target="llmcf_cli.rec.augment.signals:SignalsAugmenter",
        summary="control: likeness of target and history in text and collaborative space, no examples",
    )
    add(
        "augmenter",
        "ict",
        config=f"{config}:ICTConfig",
        target="llmcf_cli.rec.augment.ict:ICTAugmenter",
        summary="LLM-CF: transformer decoder over retrieved examples and their chains of thought",
    )
    add(
        "augmenter",
        "kar",
        config=f"{config}:KARConfig",
        target="llmcf_cli.rec.augment.kar:KARAugmenter",
        summary="knowledge vectors of user and item through a hybrid-expert adaptor (Xi et al., 2023)",
    )
    add(
        "objective",
        "bce",
        config=f"{config}:BCEConfig",
        target="llmcf_cli.rec.objectives:BCE",
        summary="binary cross-entropy on logits",
    )
    add(
        "objective",
        "distill",
        config=f"{config}:DistillConfig",
        target="llmcf_cli.rec.objectives:Distill",
        summary="knowledge distillation from the language model's P(Yes)",
    )
    add(
        "objective",
        "cot_reconstruction",
        config=f"{config}:CoTReconstructionConfig",
        target="llmcf_cli.rec.objectives:CoTReconstruction",
        summary="1 − cos between the prediction at x_k and cot_k",
    )


def _baselines(registry: Registry) -> None:
    add = registry.add
    package = "llmcf_cli.rec.baselines"
    add(
        "baseline",
        "popularity",
        config=f"{package}.config:PopularityConfig",
        target=f"{package}.popularity:Popularity",
        summary="counts of the item's train samples",
    )
    add(
        "baseline",
        "item_knn",
        config=f"{package}.config:ItemKNNConfig",
        target=f"{package}.item_knn:ItemKNN",
        summary="item-based nearest neighbours (Sarwar et al., 2001)",
    )
    add(
        "baseline",
        "als",
        config=f"{package}.config:ALSConfig",
        target=f"{package}.als:ALS",
        summary="matrix factorisation of implicit feedback (Hu et al., 2008)",
    )
    add(
        "baseline",
        "gbm",
        config=f"{package}.config:GBMConfig",
        target=f"{package}.gbm:GBM",
        summary="gradient-boosted trees over matching signals",
    )
