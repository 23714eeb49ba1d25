"""What ships with llmcf: components, stages and commands, registered by the same call that plugins use."""

from __future__ import annotations

from llmcf_cli.plugin.registry import COMMAND, STAGE, Registry

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
        ("tables", "data.sources.config:MixedConfig", "data.sources.tables:TableSource",
         "tables in a format each, by the endings of their names, columns mapped in the recipe"),
        ("amazon", "data.sources.config:AmazonConfig", "data.sources.amazon:AmazonSource",
         "Amazon reviews 2014, 2018 or 2023: JSON lines of reviews and metadata"),
        ("amazon2014", "data.sources.config:Amazon2014Config", "data.sources.amazon:AmazonSource",
         "Amazon reviews 2014: gzipped JSON lines of reviews and metadata"),
        ("planted", "planted.config:PlantedConfig", "data.sources.planted:PlantedSource",
         "a made-up world in which labels depend on what no column has, for positive controls"),
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
        ("fixed_cut", "data.config:FixedCutConfig", "data.split:FixedCutSplit",
         "two cuts at given times for all users"),
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
        ("facts", "llm.config:FactsEngineConfig", "llm.engines.facts:FactsEngine",
         "no model: sentences from counts over train rows before the sample"),
        ("planted", "llm.config:PlantedEngineConfig", "llm.engines.planted:PlantedEngine",
         "no model: tells of a planted world what is so, to a given truth"),
    ),
    "judge": (
        ("rubric", "llm.config:RubricJudgeConfig", "llm.writing.judge:RubricJudge",
         "coherence, completeness, relevance and consistency, equal weights"),
    ),
    "encoder": (
        ("hashing", "llm.config:HashingEncoderConfig", "llm.models.hashing:HashingEncoder",
         "bag of hashed character n-grams: no model, thousands of texts a second"),
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
    "input": (
        ("text", "rec.input.config:TextInputConfig", "rec.input.text:Text",
         "item text vectors"),
        ("collaborative", "rec.input.config:CollaborativeInputConfig", "rec.input.collaborative:CollaborativeVectors",
         "collaborative vectors"),
        ("signals", "rec.input.config:SignalsInputConfig", "rec.input.signals:Signals",
         "matching signals"),
        ("examples", "rec.input.config:ExamplesInputConfig", "rec.input.examples:RetrievedExamples",
         "retrieved examples"),
        ("knowledge", "rec.input.config:KnowledgeInputConfig", "rec.input.knowledge:WrittenKnowledge",
         "knowledge about users and items"),
        ("teacher", "rec.input.config:TeacherInputConfig", "rec.input.teacher:TeacherScores",
         "the language model's scores of train samples"),
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
        ("readout", "rec.config:ReadoutConfig", "rec.augment.readout:ReadoutAugmenter",
         "text, and what like examples' chains of thought say beyond their rows, through one linear layer"),
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


# Name, class below `llmcf_cli.stages.steps`, help, and what of `llmcf_cli.cli` shows its findings; in running order.
_STAGES: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("ingest", "ingest:Ingest", "Read the data set, check it, make samples and splits.",
     {"findings": "ingest_findings:show"}),
    ("collab", "collab:Collab", "Make collaborative item vectors from the train positives.",
     {"findings": "findings:collab"}),
    ("train-llm", "train_llm:TrainLLM", "Tune the language model on recommendation and general data.",
     {"findings": "findings:train_llm", "command": "stages:train_llm"}),
    ("ability", "ability:Ability", "Ask the tuned language model everything that eval-llm and balance compare.",
     {"findings": "findings:ability"}),
    ("eval-llm", "ability:EvalLLM",
     "Compare the language model before and after tuning: recommendation and general ability.",
     {"findings": "findings:at_the_end", "ending": "report:models"}),
    ("balance", "balance:Balance", "Sweep share and amount of recommendation data against general ability.",
     {"findings": "findings:at_the_end", "ending": "report:balance"}),
    ("gen-cot", "gen_cot:GenCoT", "Write chains of thought for a sample of the train interactions.",
     {"findings": "findings:gen_cot", "command": "stages:gen_cot"}),
    ("embed", "embed:Embed", "Encode item texts into LanceDB.", {"findings": "findings:embed"}),
    ("examples", "embed:Examples", "Encode the chains of thought into LanceDB, beside their samples.",
     {"findings": "findings:examples"}),
    ("match", "match:Match", "Retrieve each sample's examples, under the leak guards.",
     {"findings": "findings:match", "command": "match:app"}),
    ("knowledge", "knowledge:Knowledge", "Let the language model write about users and items, for the augmenter kar.",
     {"findings": "findings:knowledge"}),
    ("teacher", "teacher:Teacher", "Ask the language model about train samples, for the objective distill.",
     {"findings": "findings:teacher"}),
    ("search", "search:Search", "Tune every arm on validation, with the same trials and space.",
     {"findings": "findings:search"}),
    ("train-rec", "train_rec:TrainRec", "Train the recommender, one arm and seed after the other.",
     {"findings": "findings:train_rec"}),
    ("baseline", "baseline:FitBaseline", "Fit the simple models of other libraries.",
     {"findings": "findings:baseline"}),
    ("predict", "predict:Predict", "Score the test split with every trained arm.",
     {"findings": "findings:at_the_end"}),
    ("evaluate", "evaluate:Evaluate", "Compare the arms on the test split.",
     {"findings": "findings:at_the_end", "ending": "report:evaluation"}),
)  # fmt: skip

# Name, function or group below `llmcf_cli.cli`, help; in the order of `llmcf --help`.
_COMMANDS = (
    ("init", "init:init", "Look at tables and write a first recipe for them, with the reasons."),
    ("run", "stages:run", "Run a recipe from data to comparison; what is cached is not repeated."),
    ("compare", "stages:compare", "Compare arms over seeds: what `run` ends with, under the name of its purpose."),
    ("work", "work:work", "Help a `gen-cot` that runs elsewhere on this artifact folder; no call is made twice."),
    ("score", "score:score", "Score (user, item) requests with a trained bundle."),
    ("serve", "serve:serve", "Serve a trained bundle over HTTP."),
    ("report", "page:report", "A finished run as one HTML file: verdict, tables, charts, cases, data, audit, lineage."),
    ("runs", "runs:runs", "The comparisons made here: measures, and what changed from one to the next."),
    ("audit", "audit:audit", "Check a run's stored matches again, by SQL alone; exit 1 where one breaks a guard."),
    ("status", "inspect:status", "What a recipe has and lacks; without a recipe, every artifact."),
    ("verify", "inspect:verify", "Compare every file of a recipe's artifacts, or of all, with its digest."),
    ("doctor", "inspect:doctor", "Check versions, devices, disk, assets and plugins."),
    ("plugins", "inspect:plugins", "Every component, stage and command, and where it comes from."),
    ("recipe", "recipe:app", "List, show, check, inspect, lock, compare and share recipes."),
    ("cot", "cot:app", "Preview prompts; show, export and import chains of thought."),
    ("bundle", "bundle:app", "Who made a bundle, and whether it is what they made."),
    ("keys", "keys:app", "Hosts and files that recipes may use on this machine."),
    ("assets", "assets:app", "Data sets and models that recipes name as `asset:NAME`."),
)


def register(registry: Registry) -> None:
    """Add everything that is built in. Targets are strings: nothing is imported here."""
    for kind, components in _COMPONENTS.items():
        for name, config, target, summary in components:
            registry.add(kind, name, config=f"llmcf_cli.{config}", target=f"llmcf_cli.{target}", summary=summary)
    for name, target, summary, shown in _STAGES:
        targets = {role: f"llmcf_cli.cli.{to}" for role, to in shown.items()}
        registry.add(STAGE, name, target=f"llmcf_cli.stages.steps.{target}", summary=summary, **targets)
    for name, target, summary in _COMMANDS:
        registry.add(COMMAND, name, target=f"llmcf_cli.cli.{target}", summary=summary)
