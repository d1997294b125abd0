"""Rank pre-trained backbones on a dataset: features, scores, ranking, report.

python estimate.py                                  the demo
python estimate.py data=/my/images zoo=demo         your own images
python estimate.py models=[resnet50,convnext_tiny*] data=/my/images budget.parameters=30e6
python estimate.py zoo=auto budget.license=permissive plan=true     list the models that fit the budget, and stop
python estimate.py scorer=[itm,logme]               several scorers
python estimate.py +experiment=ablation_batch       an ablation
python estimate.py -m worker=1,2 hydra/launcher=ray race=true data=/my/images
                                                    a race of many models, two workers that share the extraction
"""

import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from itm.cli import command
from itm.cli.failures import failed
from itm.cli.folders import configs_folder
from itm.cli.targets import build, resolved


def main() -> None:
    """Run the command line ``estimate.py`` or ``itm-estimate``.

    Raises:
        SystemExit: With status 1 if a model has no features and ``on_failure`` is ``stop``.
    """
    failed.clear()
    command.run(job, "estimate", __doc__, sampled=True)
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        sys.exit(f"error: no features: {names}; the report has the reasons. on_failure=skip accepts that.")


@hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name="estimate")
def job(cfg: DictConfig) -> None:
    """Run one estimate and write its folder."""
    with command.exit_on_user_error():
        estimate(cfg, Path(HydraConfig.get().runtime.output_dir))


def estimate(cfg: DictConfig, output: Path) -> None:
    """Rank the models that the config names on its images; print and write the report."""
    # imported here: torch takes longer than `--help` and the mistakes in a command line need
    from itm.cli.models import choose_models, removal_lines, show_plan
    from itm.cli.pipeline import run_estimate
    from itm.cli.settings import check_estimate
    from itm.core.console import console
    from itm.report.output import check_output

    run = resolved(cfg)
    check_estimate(run)
    check_output(output)
    chosen = choose_models(run)
    if run["plan"]:
        show_plan(chosen)
        return
    run["zoo"] = chosen.zoo
    cfg.zoo = run["zoo"]  # callbacks and config.yaml have the models of this run
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    scorers = {str(name): build(f"scorer.{name}", node, run["trust"]) for name, node in cfg.scorer.items()}
    tracker = build("tracking", cfg.tracking, run["trust"]) if "_target_" in cfg.tracking else None
    with nullcontext() if tracker is None else tracker.track_estimate(run, output) as tracked:
        report = replace(run_estimate(run, scorers), command=shlex.join(sys.argv))
        report.show(console())  # first, so that a disk that filled up meanwhile does not cost the scores
        written = report.write(output)
        for line in removal_lines(chosen.removed):
            print(line)
        print(f"Report: {written[-1]}")
        if tracked is not None:
            tracked.log(report)
            print(f"W&B run: {tracked.folder}")
    if run["on_failure"] == "stop":
        failed.extend(report.failed)
