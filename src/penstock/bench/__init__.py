"""Measuring tools that users keep."""
