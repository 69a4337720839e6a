"""One metric, given images batch by batch."""

from ldm.metric.statistics import ReferenceBuilder, evenly_spaced
from ldm.metric.suite import MetricSuite


class Measured:
    """A metric with what it has been given.

    `real` are images with which generated ones are compared.
    """

    def __init__(self, metric, real=None):
        self.suite = MetricSuite([metric])
        self.references = {}
        self.given = 0
        if real is not None:
            (signature,) = self.suite.extractors
            kept = evenly_spaced(len(real), self.suite.real_features.get(signature, 0))
            builder = ReferenceBuilder(metric.extractor, kept)
            builder.update(real, range(len(real)))
            self.references = {signature: builder.reference()}

    def update(self, images, fields):
        self.suite.update(images, fields, range(self.given, self.given + len(images)))
        self.given += len(images)

    def compute(self):
        """Return the scores of all images since the last call."""
        found = self.suite.compute(self.references)
        self.suite.reset()
        return found
