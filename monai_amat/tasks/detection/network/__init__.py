"""The networks of detection: YOLOv5 of ultralytics without anchors, a classic YOLOv5, and what both are built from."""
