"""The literature's evaluation protocols: metrics on arrays, and runners that yield one row per scene.

Metrics: ``camera_places`` (localisation), ``pose_pairs`` (relative pose), ``focals``, ``clouds``
(reconstruction), ``cost`` (speed, memory); with ``evaluation.trajectory`` and ``evaluation.depth``. Runners
take recordings (``recordings.Recording``) and either a configuration of the mapper (``of_map.run_mapping``,
``localisation.run_localisation_in_map``) or a backend of pairs (``depth``, ``relative_pose``, ``localisation``,
``reconstruction``, ``speed``). Rows are plain dictionaries (``rows``).
"""
