"""The run: cameras, vehicles, uplinks, collector, stages, results, report and command line."""
