"""Metrics made of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.core import Metric

Labelled: TypeAlias = "Mapping[tuple[str, ...], float]"


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a metric without labels that may fall."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a metric without labels that only grows; its series is the name with `_total`."""
    return CounterMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    """Return a metric that may fall, with a value for each tuple of label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def counters(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    """Return a metric that only grows, with a value for each tuple of label values."""
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
