"""Plan a pretraining run on a cluster: memory, the DeepSpeed JSON that fits, days, communication, break-even.

python tools/plan.py launch/recipes/large/minijoint.yaml --gpus 64 --gpu a100-80gb
python tools/plan.py launch/recipes/xl/minijoint.yaml --gpus 128 --gpu-memory 40 --peak-tflops 312 --link 300
python tools/plan.py launch/recipes/xl/minijoint.yaml --gpus 64 --write zero.json     # for --deepspeed_config
python tools/plan.py --page docs/plans.md         # the included recipes, on 8, 64 and 1,024 A100

Nothing here is measured: formulas with their sources, and a utilisation that you state.
"""

from dataclasses import replace
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command, writing
from megamini.recipes.shipped import RECIPES

# Published vocabularies: RoBERTa's recipes a language of their own, XLM-R's 100 languages together.
PAGE = {"base": 50_000, "large": 50_000, "xl": 250_002, "xxl": 250_002}
PAGE_GPUS = (8, 64, 1024)
# As config.json of Llama 3 8B has it (Meta, 2024), which decoder/8b.yaml is planned with.
LLAMA_3_8B = {
    "vocab_size": 128_256, "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14_336, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help="a recipe of launch/pretrain.py")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    add("--gpus", type=int, default=8, metavar="N", help="GPUs in all (default: 8)")
    add("--gpu", default="a100-80gb", metavar="NAME", help="kind of GPU (default: a100-80gb)")
    add("--gpu-memory", type=float, metavar="GB", help="memory of one GPU (else: of --gpu)")
    add("--peak-tflops", type=float, metavar="N", help="peak of one GPU at the recipe's precision (else: of --gpu)")
    add("--link", type=float, metavar="GB/S", help="what a GPU sends to others of its node (else: of --gpu)")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="(default: 8)")
    add("--network", type=float, default=25.0, metavar="GB/S", help="what a GPU sends to other nodes (default: 25)")
    add("--utilisation", type=float, default=0.4, metavar="SHARE", help="model FLOPs over peak (default: 0.4)")
    add("--vocab-size", type=int, default=50_000, metavar="N", help="without the recipe's data (default: 50000)")
    add("--block-length", type=int, default=512, metavar="N", help="without the recipe's data (default: 512)")
    add("--write", type=Path, metavar="FILE", help="write the DeepSpeed JSON that fits")
    add("--page", type=Path, metavar="FILE", help="write the page of the included recipes")
    options = parser.parse_intermixed_args()
    if options.page:
        with writing(options.page):
            options.page.write_text(page(), encoding="utf-8")
        print(options.page)
        return
    if options.recipe is None:
        print(f"{parser.format_usage()}\n{parser.description}")
        return

    import json

    from megamini.commands.planning.memory_plan import deepspeed_json, smallest_that_fits
    from megamini.commands.planning.report import plan_report
    from megamini.commands.planning.subject import pieces_of_checkpoint, sizes_in_data, subject_of
    from megamini.recipes.recipe import load_recipe
    from megamini.training.engines.deepspeed_config import DEFAULT, check_combination

    recipe = load_recipe(options.recipe, options.overrides)
    check_combination(DEFAULT, recipe.training.precision)
    found = sizes_in_data(recipe)
    pieces, block_length = found or (pieces_of_checkpoint(recipe) or options.vocab_size, options.block_length)
    subject = subject_of(recipe, pieces, block_length)
    cluster = _cluster(options)
    whence = "as" if found else "assumed (--vocab-size, --block-length); there are no data yet"
    print(f"{pieces:,} pieces and blocks of {block_length}, {whence} in {recipe.data.paths[0]}\n")
    print(plan_report(subject, cluster))
    if options.write:
        with writing(options.write):
            content = deepspeed_json(subject, smallest_that_fits(subject, cluster))
            options.write.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(options.write)


def _cluster(options):
    """Raises UserError for numbers that no cluster has."""
    from megamini.commands.planning.clusters import GB, Cluster, find_gpu

    for name in ("gpus", "gpus_per_node", "network", "vocab_size", "block_length", "gpu_memory", "peak_tflops", "link"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
    if not 0 < options.utilisation <= 1:
        raise UserError(f"--utilisation {options.utilisation}: a share above 0 and at most 1")
    gpu = find_gpu(options.gpu)
    name = f"{options.gpus:,} x {options.gpu}"
    if options.gpu_memory:
        gpu, name = replace(gpu, memory=options.gpu_memory * GB), f"{options.gpus:,} GPUs of {options.gpu_memory:g} GB"
    if options.peak_tflops:
        gpu = replace(gpu, stated_peak=options.peak_tflops * 1e12)
    if options.link:
        gpu = replace(gpu, link=options.link * GB)
    return Cluster(
        name, gpu, options.gpus, options.gpus_per_node, options.network * GB, utilisation=options.utilisation
    )


def page() -> str:
    """Plans of the included recipes, on clusters of A100 80 GB."""
    from tempfile import TemporaryDirectory

    from transformers import AutoConfig

    from megamini.commands.planning.clusters import Cluster, find_gpu
    from megamini.commands.planning.report import SUMMARY_TITLES, plan_report, summary_row
    from megamini.commands.planning.subject import subject_of
    from megamini.commands.reporting.tables import table
    from megamini.recipes.recipe import load_recipe

    gpu, rows, plans = find_gpu("a100-80gb"), [], []
    for recipe, vocab_size in PAGE.items():
        subject = subject_of(load_recipe(RECIPES / f"{recipe}/minijoint.yaml"), vocab_size, 512)
        for gpus in PAGE_GPUS:
            cluster = Cluster(f"{gpus:,} x a100-80gb", gpu, gpus)
            rows.append(summary_row(subject, cluster))
            plans.append(plan_report(subject, cluster))
    with TemporaryDirectory() as checkpoint:
        AutoConfig.for_model("llama", **LLAMA_3_8B).save_pretrained(checkpoint)
        for method in ("causal", "lora", "embeddings"):
            changes = [f"name=8b-{method}", f"objective.method={method}", f"model.from_checkpoint={checkpoint}"]
            if method != "lora":
                changes.append("objective.lora=null")
            subject = subject_of(load_recipe(RECIPES / "decoder/8b.yaml", changes), LLAMA_3_8B["vocab_size"], 512)
            cluster = Cluster("8 x a100-80gb", gpu, 8)
            rows.append(summary_row(subject, cluster))
            plans.append(plan_report(subject, cluster))
    return "\n".join(
        [
            "# Plans",
            "",
            "What MiniJoint needs on 8, 64 and 1,024 GPUs: memory, days, communication. Computed, not measured.",
            "For your own GPUs: `python tools/plan.py RECIPE --gpus N --gpu NAME`, see [Clusters](clusters.md).",
            "This page is generated by `tools/plan.py --page docs/plans.md`.",
            "",
            "Assumed: the published schedule (125,000 updates of 2,048 blocks of 512), bf16, A100 80 GB in nodes of 8,",
            "NVLink inside a node, 25 GB/s from each GPU to other nodes, 40% of peak. 50,000 pieces (base, large) or",
            "250,002 (xl, xxl).",
            "8b: 2 billion tokens more over Llama 3 8B with its 128,256 pieces, by the three methods of",
            "`launch/recipes/decoder/8b.yaml`.",
            "",
            "Sharding: the least that fits. Break-even: after so many languages, the exit has saved more FLOPs than it",
            "cost in pretraining. Host: memory of the host for each rank, in training and while the model is built.",
            "",
            table(SUMMARY_TITLES, rows),
            "",
            *plans,
        ]
    )


if __name__ == "__main__":
    run_command(main)
