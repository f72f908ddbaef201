"""Gemini's fields on their way to OpenAI's dialect, and OpenAI's answers on their way to Gemini's clients."""

from knowalledge.gateway.api.fields import FieldTable, Refusals, carried, containers, ignored, refused

_PART = "contents[].parts[]."
_CONFIG = "generationConfig."

REQUEST = FieldTable(
    "Requests",
    "Gemini",
    "OpenAI",
    (
        *containers("messages", "contents", "contents[].parts"),
        *carried("user or assistant", "contents[].role"),
        *carried("content", f"{_PART}text"),
        *carried("a system message", "systemInstruction"),
        *carried(
            "image_url, input_audio (wav, mp3), file (documents), or text; others are refused",
            f"{_PART}inlineData",
        ),
        *carried("image_url for https: images; other addresses and kinds are refused", f"{_PART}fileData"),
        *carried("tool_calls", f"{_PART}functionCall"),
        *carried("a tool message, with the id of its call", f"{_PART}functionResponse"),
        *containers("tools", "tools[].functionDeclarations"),
        *carried(
            "the same", "tools[].functionDeclarations[].name", "tools[].functionDeclarations[].description"
        ),
        *carried(
            "parameters, as JSON Schema",
            "tools[].functionDeclarations[].parameters",
            "tools[].functionDeclarations[].parametersJsonSchema",
        ),
        *containers("tool_choice", "toolConfig.functionCallingConfig"),
        *carried(
            "auto, none, required or the one function; VALIDATED is refused",
            "toolConfig.functionCallingConfig.mode",
        ),
        *carried("the tools that are sent", "toolConfig.functionCallingConfig.allowedFunctionNames"),
        *carried("max_tokens, at OpenAI max_completion_tokens", f"{_CONFIG}maxOutputTokens"),
        *carried("temperature", f"{_CONFIG}temperature"),
        *carried("top_p", f"{_CONFIG}topP"),
        *carried("top_k, which OpenAI itself does not have: there a 400", f"{_CONFIG}topK"),
        *carried("seed", f"{_CONFIG}seed"),
        *carried("stop", f"{_CONFIG}stopSequences"),
        *carried("presence_penalty", f"{_CONFIG}presencePenalty"),
        *carried("frequency_penalty", f"{_CONFIG}frequencyPenalty"),
        *carried("response_format", f"{_CONFIG}responseMimeType", f"{_CONFIG}responseJsonSchema"),
        *carried(
            "response_format, as JSON Schema in the order of propertyOrdering", f"{_CONFIG}responseSchema"
        ),
        *carried(
            "reasoning_effort",
            f"{_CONFIG}thinkingConfig.thinkingBudget",
            f"{_CONFIG}thinkingConfig.thinkingLevel",
        ),
        *containers("reasoning_effort", f"{_CONFIG}thinkingConfig"),
        *carried("image_url.detail", f"{_CONFIG}mediaResolution"),
        *refused("one answer a request: ask more often instead", f"{_CONFIG}candidateCount", harmless=(1,)),
        *refused(
            "answers are text only",
            f"{_CONFIG}responseModalities",
            harmless=(["TEXT"], ["MODALITY_UNSPECIFIED"], ["TEXT", "MODALITY_UNSPECIFIED"], [0], [1]),
        ),
        *refused(
            "answers are text only",
            f"{_CONFIG}speechConfig",
            f"{_CONFIG}imageConfig",
            f"{_CONFIG}responseFormat",
            f"{_CONFIG}audioTranscriptionConfig",
            f"{_CONFIG}translationConfig",
            f"{_CONFIG}enableAffectiveDialog",
        ),
        *refused("log probabilities are not served", f"{_CONFIG}responseLogprobs", f"{_CONFIG}logprobs"),
        *refused(
            "the gateway chooses the model", f"{_CONFIG}routingConfig", f"{_CONFIG}modelSelectionConfig"
        ),
        *refused(
            "there is no such setting", f"{_CONFIG}audioTimestamp", f"{_CONFIG}enableEnhancedCivicAnswers"
        ),
        *refused("cached contents are not kept here", "cachedContent"),
        *refused("there is no such check", "modelArmorConfig"),
        *refused(
            "tools of Google's are not served",
            *(
                f"tools[].{name}"
                for name in (
                    "codeExecution",
                    "computerUse",
                    "enterpriseWebSearch",
                    "exaAiSearch",
                    "fileSearch",
                    "googleMaps",
                    "googleSearch",
                    "googleSearchRetrieval",
                    "mcpServers",
                    "parallelAiSearch",
                    "retrieval",
                    "urlContext",
                )
            ),
            "toolConfig.retrievalConfig",
            "toolConfig.includeServerSideToolInvocations",
        ),
        *refused("calls come whole", "toolConfig.functionCallingConfig.streamFunctionCallArguments"),
        *refused(
            "functions answer at once", "tools[].functionDeclarations[].behavior", harmless=("BLOCKING",)
        ),
        *refused(
            "a result is text there",
            f"{_PART}functionResponse.parts",
            f"{_PART}functionResponse.willContinue",
            f"{_PART}functionResponse.scheduling",
            f"{_PART}functionCall.partialArgs",
            f"{_PART}functionCall.willContinue",
        ),
        *refused(
            "no such kind of part there",
            *(
                f"{_PART}{name}"
                for name in (
                    "executableCode",
                    "codeExecutionResult",
                    "toolCall",
                    "toolResponse",
                    "videoMetadata",
                    "mediaProcessing",
                    "mediaResolution",
                    "audioTranscription",
                )
            ),
        ),
        *ignored("they block answers, and are Google's alone", "safetySettings"),
        *ignored(
            "labels",
            "labels",
            f"{_PART}partMetadata",
            f"{_PART}inlineData.displayName",
            f"{_PART}fileData.displayName",
        ),
        *ignored(
            "what is known of a medium besides its content",
            f"{_PART}audioMetadata",
            f"{_PART}documentMetadata",
        ),
        *ignored(
            "what is known of a medium besides its content",
            f"{_PART}speechMetadata",
            f"{_PART}spreadsheetMetadata",
        ),
        *ignored(
            "a model's earlier thoughts, which only Google takes back",
            f"{_PART}thought",
            f"{_PART}thoughtSignature",
        ),
        *ignored("no thoughts come back from another dialect", f"{_CONFIG}thinkingConfig.includeThoughts"),
        *ignored(
            "it describes what the client itself will answer", "tools[].functionDeclarations[].response"
        ),
        *ignored(
            "it describes what the client itself will answer",
            "tools[].functionDeclarations[].responseJsonSchema",
        ),
    ),
)
REFUSALS = Refusals(REQUEST.rules)

ANSWER = FieldTable(
    "Answers",
    "OpenAI",
    "Gemini",
    (
        *containers("candidates[].content", "choices[].message", "choices[].delta"),
        *containers("candidates; the first one", "choices"),
        *carried("index", "choices[].index"),
        *carried("role", "choices[].message.role", "choices[].delta.role"),
        *carried("text", "choices[].message.content", "choices[].delta.content"),
        *carried(
            "functionCall; none if its arguments are no JSON object",
            "choices[].message.tool_calls",
            "choices[].delta.tool_calls",
        ),
        *carried("text, with finishReason SAFETY", "choices[].message.refusal", "choices[].delta.refusal"),
        *carried(
            "finishReason, and finishMessage for words that Google does not have", "choices[].finish_reason"
        ),
        *carried("usageMetadata", "usage"),
        *carried("modelVersion", "model"),
        *ignored("the details of tokens that Google has no place for", "usage.completion_tokens_details"),
        *ignored("the details of tokens that Google has no place for", "usage.prompt_tokens_details"),
        *ignored("only what was asked for, and none of these can be from this dialect", "choices[].logprobs"),
        *ignored(
            "only what was asked for, and none of these can be from this dialect",
            "choices[].message.annotations",
        ),
        *ignored(
            "only what was asked for, and none of these can be from this dialect", "choices[].message.audio"
        ),
        *ignored(
            "only what was asked for, and none of these can be from this dialect", "choices[].delta.audio"
        ),
        *ignored(
            "only what was asked for, and none of these can be from this dialect", "moderation", "metadata"
        ),
        *ignored("the older form of tool_calls, which is never asked for", "choices[].message.function_call"),
        *ignored("the older form of tool_calls, which is never asked for", "choices[].delta.function_call"),
        *ignored("the form of the answer itself", "id", "object", "created", "service_tier"),
        *ignored("the form of the answer itself", "system_fingerprint", "obfuscation"),
    ),
)
