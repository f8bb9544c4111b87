"""The truth test: is every declared server up, loaded, and answering, fast enough?"""
