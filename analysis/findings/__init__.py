"""What the reports say, declared once: which curves, which measure, which ratios. The numbers come from rows."""

from analysis.findings.paper import OF_THE_PAPER
from analysis.findings.when_entropy import ON_WHEN_ENTROPY_HELPS

FINDINGS = (*OF_THE_PAPER, *ON_WHEN_ENTROPY_HELPS)
