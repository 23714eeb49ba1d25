"""The components that ship with llmcf, registered by the same call that plugins use."""

from __future__ import annotations

from llmcf_cli.plugin.registry import Registry

# Kind → (name, configuration, implementation, summary); both targets are below `llmcf_cli`.
_COMPONENTS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "source": (
        ("recbole", "data.sources.config:RecBoleConfig", "data.sources.recbole:RecBoleSource",
         "RecBole atomic files (.inter, .item, .user)"),
        ("parquet", "data.sources.config:ParquetConfig", "data.sources.tables:TableSource",
         "Parquet tables, columns mapped in the recipe"),
        ("csv", "data.sources.config:CsvConfig", "data.sources.tables:TableSource",
         "CSV or TSV tables, columns mapped in the recipe"),
        ("jsonl", "data.sources.config:JsonlConfig", "data.sources.tables:TableSource",
         "tables of JSON objects, one a line, columns mapped in the recipe"),
        ("amazon", "data.sources.config:AmazonConfig", "data.sources.amazon:AmazonSource",
         "Amazon reviews 2014, 2018 or 2023: JSON lines of reviews and metadata"),
        ("amazon2014", "data.sources.config:Amazon2014Config", "data.sources.amazon:AmazonSource",
         "Amazon reviews 2014: gzipped JSON lines of reviews and metadata"),
    ),
    "label": (
        ("rating", "data.config:RatingLabelConfig", "data.label:RatingLabel",
         "positive from a rating threshold on"),
        ("implicit", "data.config:ImplicitLabelConfig", "data.label:ImplicitLabel",
         "every interaction positive, negatives sampled"),
    ),
    "negatives": (
        ("uniform", "data.config:UniformNegativesConfig", "data.negatives:UniformNegatives",
         "items drawn uniformly"),
        ("popularity", "data.config:PopularityNegativesConfig", "data.negatives:PopularityNegatives",
         "items drawn by train popularity"),
    ),
    "split": (
        ("global_time", "data.config:GlobalTimeConfig", "data.split:GlobalTimeSplit",
         "one cut in time for all users"),
        ("leave_one_out", "data.config:LeaveOneOutConfig", "data.split:LeaveOneOutSplit",
         "each user's last event to test, the one before to validation"),
    ),
    "mix_source": (
        ("recommendation", "llm.config:RecommendationMixConfig", "llm.mix.mixture:RecommendationSource",
         "yes/no questions from the data set's train rows"),
        ("parquet", "llm.config:ParquetMixConfig", "llm.mix.instructions:FileSource",
         "instruction–answer pairs in a Parquet file"),
        ("jsonl", "llm.config:JsonlMixConfig", "llm.mix.instructions:FileSource",
         "instruction–answer pairs in JSON lines"),
    ),
    "tuner": (
        ("full", "llm.config:FullTuneConfig", "llm.tuning.tune:tune",
         "all parameters"),
        ("lora", "llm.config:LoraTuneConfig", "llm.tuning.tune:tune",
         "low-rank adapters, merged after training"),
        ("qlora", "llm.config:QLoraTuneConfig", "llm.tuning.tune:tune",
         "low-rank adapters on weights in 4 bits, merged after training; needs a CUDA device"),
    ),
    "engine": (
        ("transformers", "llm.config:TransformersEngineConfig", "llm.engines.transformers:TransformersEngine",
         "the tuned model, in batches of similar length"),
        ("openai", "llm.config:OpenAIEngineConfig", "llm.engines.openai:OpenAIEngine",
         "a server that speaks OpenAI's chat completions"),
        ("vllm", "llm.config:VllmEngineConfig", "llm.engines.vllm:VllmEngine",
         "the tuned model through vLLM, on a GPU"),
    ),
    "judge": (
        ("rubric", "llm.config:RubricJudgeConfig", "llm.writing.judge:RubricJudge",
         "coherence, completeness, relevance and consistency, equal weights"),
    ),
    "space": (
        ("text", "match.config:TextSpaceConfig", "match.space:TextSpace",
         "text vectors of history ⊕ item"),
    ),
    "searcher": (
        ("exact", "match.config:ExactSearchConfig", "match.exact:ExactSearcher",
         "blocked matrix products with a running top-K"),
        ("ann", "match.config:AnnSearchConfig", "match.ann:AnnSearcher",
         "approximate: LanceDB indexes under exact guards, recall measured"),
        ("random", "match.config:RandomSearchConfig", "match.random:RandomSearcher",
         "control: random examples under the same guards"),
    ),
    "task": (
        ("ranking", "rec.config:RankingConfig", "rec.tasks.ranking:Ranking",
         "the label of a (user, item) pair, measured by AUC"),
    ),
    "backbone": (
        ("deepfm", "rec.config:DeepFMConfig", "rec.ranking.deepfm:DeepFM",
         "factorisation machine + MLP (Guo et al., 2017)"),
        ("xdeepfm", "rec.config:XDeepFMConfig", "rec.ranking.xdeepfm:XDeepFM",
         "compressed interaction network + MLP (Lian et al., 2018)"),
        ("autoint", "rec.config:AutoIntConfig", "rec.ranking.autoint:AutoInt",
         "multi-head self-attention over fields + MLP (Song et al., 2019)"),
        ("dcn", "rec.config:DCNConfig", "rec.ranking.dcn:DCN",
         "cross network + MLP (Wang et al., 2017)"),
        ("dcnv2", "rec.config:DCNv2Config", "rec.ranking.dcnv2:DCNv2",
         "cross network of low-rank experts + MLP (Wang et al., 2021)"),
        ("din", "rec.config:DINConfig", "rec.ranking.din:DIN",
         "target attention over the history (Zhou et al., 2018)"),
    ),
    "augmenter": (
        ("none", "rec.config:NoneConfig", "rec.augment.none:NoAugmenter",
         "the backbone alone"),
        ("text", "rec.config:TextConfig", "rec.augment.text:TextAugmenter",
         "control: item and history text vectors, no examples"),
        ("mean", "rec.config:MeanConfig", "rec.augment.mean:MeanAugmenter",
         "ablation of LLM-CF: the tokens of the examples averaged, no decoder"),
        ("signals", "rec.config:SignalsConfig", "rec.augment.signals:SignalsAugmenter",
         "control: likeness of target and history in text and collaborative space, no examples"),
        ("ict", "rec.config:ICTConfig", "rec.augment.ict:ICTAugmenter",
         "LLM-CF: transformer decoder over retrieved examples and their chains of thought"),
        ("kar", "rec.config:KARConfig", "rec.augment.kar:KARAugmenter",
         "knowledge vectors of user and item through a hybrid-expert adaptor (Xi et al., 2023)"),
    ),
    "objective": (
        ("bce", "rec.config:BCEConfig", "rec.objectives:BCE",
         "binary cross-entropy on logits"),
        ("distill", "rec.config:DistillConfig", "rec.objectives:Distill",
         "knowledge distillation from the language model's P(Yes)"),
        ("cot_reconstruction", "rec.config:CoTReconstructionConfig", "rec.objectives:CoTReconstruction",
         "1 − cos between the prediction at x_k and cot_k"),
    ),
    "baseline": (
        ("popularity", "rec.baselines.config:PopularityConfig", "rec.baselines.popularity:Popularity",
         "how often the item was taken in train"),
        ("item_rate", "rec.baselines.config:ItemRateConfig", "rec.baselines.popularity:ItemRate",
         "log odds of the item's train samples"),
        ("item_knn", "rec.baselines.config:ItemKNNConfig", "rec.baselines.item_knn:ItemKNN",
         "item-based nearest neighbours (Sarwar et al., 2001)"),
        ("als", "rec.baselines.config:ALSConfig", "rec.baselines.als:ALS",
         "matrix factorisation of implicit feedback (Hu et al., 2008)"),
        ("gbm", "rec.baselines.config:GBMConfig", "rec.baselines.gbm:GBM",
         "gradient-boosted trees over matching signals"),
    ),
}  # fmt: skip


def register(registry: Registry) -> None:
    """Add every built-in component. Targets are strings: nothing is imported here."""
    for kind, components in _COMPONENTS.items():
        for name, config, target, summary in components:
            registry.add(kind, name, config=f"llmcf_cli.{config}", target=f"llmcf_cli.{target}", summary=summary)
