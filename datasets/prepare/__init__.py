"""What prepare_data.py does: convert public sets, pair images with masks, split lists, survey, sample set."""
