"""The commands of prepare_data.py: conversion of data sets, splitting into lists, survey, and the sample set."""
