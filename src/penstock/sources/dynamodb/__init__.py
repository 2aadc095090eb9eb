"""A DynamoDB table as a source."""

from penstock.sources.dynamodb.source import DynamoDBSource

__all__ = ["DynamoDBSource"]
