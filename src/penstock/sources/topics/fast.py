from penstock.sources.topics.messages import *
from penstock.sources.topics.debezium import DebeziumFormat
class DebeziumDecoder(MessageDecoder):
    def __init__(self, shapes, wanted):
        super().__init__(DebeziumFormat(), shapes, wanted)
